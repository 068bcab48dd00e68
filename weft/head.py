"""The output layer where it is needed: cross-entropy of chosen rows, without keeping logits."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Head:
    """A denoiser's output layer: ``logits = hidden @ weight.T + bias``."""

    weight: Tensor
    """[V, D]"""
    bias: Tensor | None = None
    """[V]"""

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> [..., V]."""
        return F.linear(hidden, self.weight, self.bias)


def weighted_cross_entropy(
    hidden: Tensor,
    targets: Tensor,
    weights: Tensor,
    head: Head,
    *,
    chunk_size: int,
    by_probability: bool = False,
) -> tuple[Tensor, Tensor]:
    """``(sum_n w_n * nll_n, nll)``: [] and [N], float32, nats; ``nll`` is detached.

    ``hidden`` [N, D], ``targets`` [N] int64, ``weights`` [N], constants to the gradient. With
    ``by_probability`` each weight is multiplied by the probability of its target, ``exp(-nll_n)``,
    itself a constant to the gradient. Source: Dynamic Fine-Tuning (arXiv 2508.05629),
    ``L = -sum_n sg(p(y_n)) log p(y_n)``. At most
    ``chunk_size`` rows of logits exist at a time, and each is computed once: what the loss adds up
    is known beforehand, so the forward pass takes the gradients of a chunk while it has its logits.
    Value and gradient equal those of the dense cross-entropy, in autocast's precision under
    autocast, the sums over rows in float32. The gradient can be taken once, and not of itself. N
    may be 0; the (zero) gradient then still reaches every parameter.

    Raises ValueError for ``chunk_size < 1``. The idea is that of the fused linear cross-entropy of
    Liger (arXiv 2410.10989) and Cut Your Losses (arXiv 2411.09009), here with a weight a row.
    """
    require_chunk_size(chunk_size)
    loss_sum, nll = _WeightedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        *(hidden, head.weight, head.bias, targets, weights.float(), chunk_size, by_probability),
        torch.is_grad_enabled(),  # within a function of autograd's own it never is
    )
    return loss_sum, nll


def rows_within(num_mib: int, vocab_size: int) -> int:
    """Rows of float32 logits that ``num_mib`` MiB hold, at least one."""
    return max(1, num_mib * 2**20 // (4 * vocab_size))


def require_chunk_size(chunk_size: int) -> None:
    """Raise ValueError unless ``chunk_size`` is at least 1."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size: wanted at least 1 row, got {chunk_size}; 1024 is usual")


class _Gradients:
    """Gradients of the sum, filled chunk by chunk; None where nobody asks."""

    def __init__(
        self, wanted: tuple[bool, ...], hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> None:
        wants_hidden, wants_weight, wants_bias = wanted
        self.hidden = torch.zeros_like(hidden) if wants_hidden else None
        self.weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        self.bias: Tensor | None = None
        if wants_bias and bias is not None:
            self.bias = torch.zeros_like(bias, dtype=torch.float32)

    @property
    def are_wanted(self) -> bool:
        return any(g is not None for g in (self.hidden, self.weight, self.bias))

    def add(self, rows: slice, residual: Tensor, scale: Tensor, hidden: Tensor, w: Tensor) -> None:
        """``scale`` [n, 1] times ``residual`` [n, V] are the gradients of n rows of logits."""
        if self.bias is not None:
            self.bias += residual.T @ scale.squeeze(1)
        residual = residual.to(w.dtype)
        if self.hidden is not None:
            self.hidden[rows] = residual @ w * scale
        if self.weight is not None:
            scaled = (hidden * scale).to(w.dtype)
            if w.dtype == self.weight.dtype:
                self.weight.addmm_(residual.T, scaled)
            else:
                self.weight += residual.T @ scaled


class _WeightedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        chunk_size: int,
        by_probability: bool,
        wants_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = tuple(wants_gradients and needed for needed in ctx.needs_input_grad[:3])
        gradients = _Gradients(wanted, hidden, weight, bias)
        dtype = working_dtype(hidden)
        head = Head(weight.to(dtype), None if bias is None else bias.to(dtype))
        nll = torch.zeros(len(targets), dtype=torch.float32, device=hidden.device)
        weights = weights.clone() if by_probability else weights
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(targets), chunk_size):
                rows = slice(start, start + chunk_size)
                part = hidden[rows].to(dtype)
                residual, total, nll[rows] = _softmax_parts(head.logits(part), targets[rows])
                if by_probability:
                    weights[rows] *= torch.exp(-nll[rows])
                if gradients.are_wanted:
                    scale = weights[rows].unsqueeze(1) / total
                    gradients.add(rows, residual, scale, part, head.weight)
        ctx.gradients, ctx.dtypes = gradients, (weight.dtype, None if bias is None else bias.dtype)
        ctx.mark_non_differentiable(nll)
        return (weights * nll).sum(), nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _grad_nll: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError(
                "weighted_cross_entropy: its gradient was taken before and is not kept; "
                "compute the loss again"
            )
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            _scaled(gradients.hidden, grad, None),
            _scaled(gradients.weight, grad, weight_dtype),
            _scaled(gradients.bias, grad, bias_dtype),
            *(None, None, None, None, None),
        )


def working_dtype(hidden: Tensor) -> torch.dtype:
    """That of products with ``hidden``: autocast's, or its own."""
    device = hidden.device.type
    is_automatic = torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if is_automatic else hidden.dtype


def _softmax_parts(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``(residual [n, V], total [n, 1], nll [n])``: probabilities less 1 at the target are
    ``residual / total``. Logits in float32 are overwritten.

    The difference is taken before anything is rounded to fewer bits: of a token known for certain
    it is nearly 0.
    """
    logits = logits.float()
    index = targets.unsqueeze(1)
    shifted = logits.sub_(logits.amax(dim=1, keepdim=True))
    at_target = shifted.gather(1, index)
    exponentials = shifted.exp_()
    total = exponentials.sum(dim=1, keepdim=True)
    nll = (total.log() - at_target).squeeze(1)
    return exponentials.scatter_add_(1, index, -total), total, nll


def _scaled(gradient: Tensor | None, factor: Tensor, dtype: torch.dtype | None) -> Tensor | None:
    if gradient is None:
        return None
    return gradient.mul_(factor).to(dtype or gradient.dtype)
