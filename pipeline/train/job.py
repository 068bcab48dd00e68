"""What the driver hands to every worker, and what it has Ray Train call there.

Ray Train's controller reads this too. It is no worker, so the network and all that it is trained
with are imported by the workers alone.
"""

from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import Manifest
from pipeline.config import RunConfig


@dataclass(frozen=True)
class Job:
    """What the driver hands to every worker."""

    config: RunConfig
    folder: str
    wanted: Manifest
    """What the checkpoint will say of itself."""
    uses_entropies: bool
    noted_state: str | None = None
    """Where to continue from if Ray Train has no state; see ``pipeline.train.last_state``."""


def train_worker(arguments: dict[str, Any]) -> dict[str, Any]:
    """Do ``arguments["job"]``, a Job; what ``pipeline.train.worker.train_job`` returns."""
    from pipeline.train.worker import train_job

    return train_job(arguments["job"])
