"""Weights of the masked tokens' losses, and what the weighted sum is divided by."""

import math

import torch
from torch import Tensor

from weft.forward_process import log_survival
from weft.method_config import Normalizer, Weighting


def token_weights(
    noise_level: Tensor,
    rates: Tensor,
    token_levels: Tensor,
    *,
    weighting: Weighting,
    alpha: float = 1.0,
) -> Tensor:
    """Weight ``w_i`` of each token's loss should it be masked -> [B, L], finite and >= 0.

    ``noise_level`` [B, 1] is ``t``, ``rates`` [B, L] are ``r_i``, ``token_levels`` [B, L] are
    ``t_i`` of ``weft.forward_process``; one float dtype.

    - ``paper``: ``1 / t_i``. Source: WeFT (arXiv 2509.20863).
    - ``elbo``: ``r_i * (1-t)**(r_i - 1) / t_i``, the Jacobian ``dt_i/dt`` over ``t_i``: for ``t``
      uniform on (0, 1) the expected loss is the exact negative ELBO of the chain.
    - ``partial``: ``1 / t_i ** alpha``.

    A token with ``t_i = 0`` is never masked; its weight is 0 rather than infinite.
    """
    # Below the smallest normal number 1/t_i overflows; such a token is never masked either.
    is_reachable = token_levels >= torch.finfo(token_levels.dtype).tiny
    levels = torch.where(is_reachable, token_levels, 1.0)
    weights = 1.0 / (levels**alpha if weighting == "partial" else levels)
    if weighting == "elbo":
        weights = rates * torch.exp((rates - 1.0) * log_survival(noise_level)) * weights
    return torch.where(is_reachable, weights, 0.0)


def context_weights(is_masked: Tensor, attention_mask: Tensor, *, p: float) -> Tensor:
    """Weight of each masked token by how near its visible context is -> [B, L], in [0, 1], else 0.

    ``w_n = 1/2 * sum_i [i visible] p * (1 - p) ** (|n - i| - 1)``: a geometric distribution to
    either side. ``is_masked``, ``attention_mask`` [B, L] bool; padding is not visible. It stands in
    the place of ``1/t``. Source: Dream 7B (arXiv 2508.15487), context-adaptive token-level noise
    rescheduling; p is 0.1 in its published recipe.
    """
    places = torch.arange(is_masked.shape[1], device=is_masked.device)
    distance = (places.unsqueeze(0) - places.unsqueeze(1)).abs()
    kernel = 0.5 * p * torch.exp((distance - 1.0) * math.log1p(-p)).fill_diagonal_(0.0)
    is_visible = attention_mask & ~is_masked
    with torch.autocast(is_masked.device.type, enabled=False):
        weights = is_visible.to(kernel.dtype) @ kernel
    return torch.where(is_masked, weights, 0.0)


def row_weights(
    weights: Tensor, is_masked: Tensor, is_maskable: Tensor, normalizer: Normalizer
) -> tuple[Tensor, Tensor]:
    """``(weights, count)``: of the masked tokens' losses, and what the weighted sum is divided by.

    The sums and the counts add up over micro-batches and ranks; the loss is their quotient.
    ``weights``, ``is_masked``, ``is_maskable`` [B, L] -> [N] float32 in row-major order of
    ``is_masked``, and [] int64.

    - ``tokens``: count of maskable tokens (response, its EOS and the tail).
    - ``sequence``: each loss over its own sequence's maskable tokens; count of sequences. LLaDA
      divides by the answer's length, the EOS padding that it trains on included; so does this.
    - ``masked``: count of masked tokens, which can be 0. For comparison only: it inflates the loss
      by about E[1/t].
    """
    rows = weights[is_masked].float()
    if normalizer == "sequence":
        lengths = is_maskable.sum(dim=1, keepdim=True)
        # A masked token is maskable, so the lengths divided by here are at least 1.
        return rows / lengths.expand_as(is_masked)[is_masked], (lengths > 0).sum()
    counted = is_maskable if normalizer == "tokens" else is_masked
    return rows, counted.sum()
