"""A process's place among the data-parallel workers."""

from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class World:
    """This process's rank, how many there are, and its device."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
