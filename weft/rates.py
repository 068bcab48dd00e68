"""From predictive entropies to relative rates: ``r_i = H_i ** gamma / beta_ref``, clamped."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.method_config import MethodConfig


@dataclass(frozen=True)
class Rates:
    """Relative rates of a batch and how often the clamps bit."""

    relative: Tensor
    """[B, L] float32 >= 0; 1 where the formula does not apply (prompt, padding, tail ``one``)."""
    num_rated: Tensor
    """[] int64, tokens whose rate comes from their entropy; only these can be clamped."""
    num_clamped_low: Tensor
    """[] int64, tokens raised to ``rate_min``."""
    num_clamped_high: Tensor
    """[] int64, tokens lowered to ``rate_max``."""


def token_betas(entropy: Tensor, gamma: float) -> Tensor:
    """Absolute rates ``entropy ** gamma`` in the dtype of ``entropy`` (nats), any shape.

    ``gamma = 0`` gives exactly ones, also for an entropy of 0. Raises ValueError for an entropy
    that is negative or not finite. Source: WeFT (arXiv 2509.20863), gamma = 1/2 there.
    """
    is_valid = (entropy >= 0) & entropy.isfinite()
    if not bool(is_valid.all()):
        raise ValueError(
            f"token_betas: wanted finite entropies >= 0 (nats), got {entropy[~is_valid][0]} among "
            f"{entropy.numel()}; compute the entropies again with weft.entropy"
        )
    return entropy**gamma


def relative_rates(
    entropy: Tensor,
    is_maskable: Tensor,
    is_tail: Tensor,
    method: MethodConfig,
    *,
    dataset_beta_ref: float | None = None,
) -> Rates:
    """Relative rates ``beta_i / beta_ref`` of maskable tokens, clamped to the method's bounds.

    ``entropy`` [B, L] nats, ``is_maskable``, ``is_tail`` [B, L] bool. ``beta_ref`` is the mean of
    ``beta_i`` over the sequence, over this batch (the one given here: a micro-batch of one rank),
    or ``dataset_beta_ref``. With ``tail = "one"`` tail tokens have rate 1 and stay out of the mean.

    Where ``beta_ref`` is 0 all its tokens have rate 1: a sequence without any entropy says nothing
    about its tokens' order, so it is trained as under plain SFT. ``gamma = 0`` gives exactly ones.
    Raises ValueError for invalid entropies, or a missing or invalid ``dataset_beta_ref``.
    """
    if method.gamma == 0:
        # beta_i = beta_ref = 1 by definition; the entropies may even be unknown.
        return unit_rates(entropy)
    follows = is_maskable & ~is_tail if method.tail == "one" else is_maskable
    betas = token_betas(torch.where(follows, entropy.float(), 0.0), method.gamma)
    betas = torch.where(follows, betas, 0.0)
    reference = _beta_ref(betas, follows, method, dataset_beta_ref)
    applies = follows & (reference > 0)
    raw = betas / torch.where(reference > 0, reference, 1.0)
    clamped = raw.clamp(method.rate_min, method.rate_max)
    return Rates(
        relative=torch.where(applies, clamped, 1.0),
        num_rated=applies.sum(),
        num_clamped_low=(applies & (raw < method.rate_min)).sum(),
        num_clamped_high=(applies & (raw > method.rate_max)).sum(),
    )


def unit_rates(like: Tensor) -> Rates:
    """Rates of exactly 1 in the shape and on the device of ``like`` [B, L]; none is clamped."""
    none = torch.zeros((), dtype=torch.int64, device=like.device)
    return Rates(torch.ones_like(like, dtype=torch.float32), none, none, none)


def mean_beta(entropies: Iterable[Tensor], gamma: float) -> float:
    """``beta_ref`` of scope ``dataset``: mean of ``H_i ** gamma`` over a stream of entropies.

    Each tensor has any shape and holds maskable tokens only; sums in float64, one tensor at a time.
    Whether tail tokens belong in follows the tail's rate: not with ``tail = "one"``.
    Raises ValueError for invalid entropies or an empty stream.
    """
    total, count = 0.0, 0
    for entropy in entropies:
        total += float(token_betas(entropy.double(), gamma).sum())
        count += entropy.numel()
    if count == 0:
        raise ValueError(
            "mean_beta: wanted at least one entropy, got none; run the reference pass first"
        )
    return total / count


def _beta_ref(
    betas: Tensor, follows: Tensor, method: MethodConfig, dataset_beta_ref: float | None
) -> Tensor:
    """``beta_ref`` broadcastable to ``betas`` [B, L], which are 0 outside ``follows``."""
    if method.beta_ref == "dataset":
        return betas.new_tensor(_checked(dataset_beta_ref))
    if method.beta_ref == "batch":
        count = follows.sum()
        return betas.sum() / count.clamp(min=1)  # no token: 0 / 1, and nothing is divided by it
    count = follows.sum(dim=1, keepdim=True)
    return betas.sum(dim=1, keepdim=True) / count.clamp(min=1)


def _checked(dataset_beta_ref: float | None) -> float:
    if dataset_beta_ref is None or not 0.0 <= dataset_beta_ref < float("inf"):
        raise ValueError(
            f"relative_rates: beta_ref of scope dataset wanted a finite dataset_beta_ref >= 0, "
            f"got {dataset_beta_ref}; compute it with weft.rates.mean_beta"
        )
    return dataset_beta_ref
