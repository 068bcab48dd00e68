"""LIFT: hard tokens are learned where much is visible, easy ones where little is.

Source: Learnability-Informed Fine-Tuning (arXiv 2605.22939), its variant with three components,
chosen by the noise level.
"""

import torch
from torch import Tensor

_LEAST_MARGIN = 0.1
"""How far above ``t`` the level of the larger mask lies at least, where there is room."""


def is_hard(noise_level: Tensor) -> Tensor:
    """Whether a sequence learns its hard tokens: where ``1 - t`` exceeds ``t`` and ``3t(1-t)``."""
    return noise_level < 1 / 3


def is_easy(noise_level: Tensor) -> Tensor:
    """Whether a sequence learns its easy tokens: where ``t`` exceeds ``1 - t`` and ``3t(1-t)``."""
    return noise_level > 2 / 3


def candidate_levels(noise_level: Tensor, margin: Tensor) -> Tensor:
    """Level ``t + rho`` of the larger mask that the tokens are chosen from -> [B, 1], at most 1.

    ``noise_level`` and ``margin`` [B, 1], the latter uniform: ``rho`` is uniform on
    ``(0.1, 1 - t)``, and on ``(0, 1 - t)`` where ``t >= 0.9``.
    """
    most = 1.0 - noise_level
    least = torch.where(most > _LEAST_MARGIN, _LEAST_MARGIN, 0.0)
    return noise_level + least + (most - least) * margin


def choose(is_masked: Tensor, is_candidate: Tensor, nll: Tensor, noise_level: Tensor) -> Tensor:
    """The tokens that are masked and learned -> [B, L] bool: of each row as many as ``is_masked``.

    ``is_masked`` [B, L] is the mask of plain SFT under the same draw, part of ``is_candidate``,
    under which ``nll`` [B, L] was computed. A row takes its candidates with the largest ``nll``
    where it learns the hard ones, with the smallest where it learns the easy ones, else
    ``is_masked`` itself. The authors' code rounds the number from that of the candidates; here it
    is that of the plain mask, so that no method sees more tokens than another.
    """
    difficulty = torch.where(is_hard(noise_level), -nll, nll)
    order = difficulty.masked_fill(~is_candidate, torch.inf).argsort(dim=1, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    ranks = torch.empty_like(order).scatter_(1, order, places)
    chosen = is_candidate & (ranks < is_masked.sum(dim=1, keepdim=True))
    return torch.where(is_hard(noise_level) | is_easy(noise_level), chosen, is_masked)
