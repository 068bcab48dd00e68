"""Cross-entropy of chosen rows without ever keeping their logits."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Project = Callable[[Tensor], Tensor]
"""Hidden states [..., D] -> logits [..., V]; no dropout inside, it is run again in backward."""


def masked_cross_entropy(
    hidden: Tensor, targets: Tensor, project: Project, *, chunk_size: int
) -> Tensor:
    """Negative log-likelihood (nats) of each target -> [N] float32, differentiable.

    ``hidden`` [N, D], ``targets`` [N] int64. At most ``chunk_size`` rows of logits exist at a time:
    with more rows than that, each chunk is projected again in the backward pass. Value and gradient
    equal those of the dense cross-entropy. N may be 0; the (zero) gradient then still reaches every
    parameter. Raises ValueError for ``chunk_size < 1``.
    """
    require_chunk_size(chunk_size)

    def losses(rows: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(project(rows).float(), wanted, reduction="none")

    if hidden.shape[0] <= chunk_size:
        return losses(hidden, targets)
    chunks = zip(torch.split(hidden, chunk_size), torch.split(targets, chunk_size), strict=True)
    return torch.cat(
        [
            checkpoint(losses, rows, wanted, use_reentrant=False, preserve_rng_state=False)
            for rows, wanted in chunks
        ]
    )


def require_chunk_size(chunk_size: int) -> None:
    """Raise ValueError unless ``chunk_size`` is at least 1."""
    if chunk_size < 1:
        raise ValueError(f"chunk_size: wanted at least 1 row, got {chunk_size}; 4096 is usual")
