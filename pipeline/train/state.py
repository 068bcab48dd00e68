"""What changes while training."""

from dataclasses import dataclass, field

from pipeline.train.optim import Optimizers
from weft.models.base import Denoiser


@dataclass
class TrainState:
    """Everything that a resumed run needs beside its inputs."""

    denoiser: Denoiser
    optimizers: Optimizers
    step: int = 0
    num_skipped: int = 0
    """Steps whose gradient was not finite, and which changed nothing."""
    history: list[dict[str, float]] = field(default_factory=list)
