"""The absorbing forward process: noise level of a sequence -> of its tokens -> masked tokens."""

import torch
from torch import Tensor


def log_survival(noise_level: Tensor) -> Tensor:
    """``log(1 - t)``, finite also where ``t`` has rounded to 1 (taken as the float just below)."""
    largest_below_one = 1.0 - torch.finfo(noise_level.dtype).eps / 2
    return torch.log1p(-noise_level.clamp(max=largest_below_one))


def token_noise_levels(noise_level: Tensor, rates: Tensor) -> Tensor:
    """Masking probability of every token: ``1 - (1 - t) ** r``, computed without cancellation.

    ``noise_level`` [B, 1] in (0, 1), ``rates`` [B, L] >= 0 -> [B, L] in [0, 1], same float dtype.
    A rate of 1 gives ``t`` bit for bit, a rate of 0 gives 0.
    Source: WeFT (arXiv 2509.20863), theorem 1.
    """
    levels = -torch.expm1(rates * log_survival(noise_level))
    return torch.where(rates == 1, noise_level, levels)


def corrupt(
    input_ids: Tensor,
    token_levels: Tensor,
    uniforms: Tensor,
    is_maskable: Tensor,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """``(noisy_ids, is_masked)``: a maskable token is masked iff its uniform is below its level.

    All arguments [B, L]; ``uniforms`` in [0, 1), so a level of 0 never masks and one of 1 always.
    """
    is_masked = is_maskable & (uniforms < token_levels)
    return torch.where(is_masked, mask_token_id, input_ids), is_masked
