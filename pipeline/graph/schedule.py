"""Which step may start, and what its end means for those that wait for it."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.graph.steps import Step

Status: TypeAlias = Literal[
    "waiting", "pending", "running", "finished", "skipped", "failed", "stopped", "blocked"
]
"""pending: submitted, and the cluster has yet to start it; skipped: what it makes is there;
blocked: a step that it waits for failed or was stopped."""
UNDER_WAY: tuple[Status, ...] = ("pending", "running")
_DONE: tuple[Status, ...] = ("finished", "skipped")
_AT_FAULT: tuple[Status, ...] = ("failed", "stopped", "blocked")


@dataclass
class Progress:
    """How far one step is."""

    step: Step
    status: Status = "waiting"
    note: str = ""
    """What else is known: where it runs, why it did not."""
    began: float | None = None
    ended: float | None = None

    def seconds(self) -> float | None:
        """For how long it runs, or ran; None before."""
        if self.began is None:
            return None
        return (time.monotonic() if self.ended is None else self.ended) - self.began


@dataclass
class Schedule:
    """The steps of a pipeline, each behind those that it waits for."""

    progress: dict[str, Progress] = field(default_factory=dict)
    max_parallel: int = 0
    """Steps at a time; 0: all that are ready."""

    @classmethod
    def of(cls, steps: Sequence[Step], *, max_parallel: int = 0) -> "Schedule":
        """Nothing has begun; what a step waits for beside ``steps`` has to be there."""
        return cls({step.name: Progress(step) for step in steps}, max_parallel)

    def ready(self) -> list[Step]:
        """Steps that can start now, in their order."""
        found = [
            one.step
            for one in self.progress.values()
            if one.status == "waiting"
            and all(self.progress[n].status in _DONE for n in self._before(one.step))
        ]
        room = self.max_parallel - len(self.with_status(*UNDER_WAY))
        return found[: max(0, room)] if self.max_parallel else found

    def mark(self, name: str, status: Status, note: str = "") -> None:
        """Note the status of a step; those that wait for one that failed are blocked."""
        one = self.progress[name]
        if status in UNDER_WAY and one.began is None:
            one.began = time.monotonic()
        if status in ("finished", "failed", "stopped") and one.began is not None:
            one.ended = time.monotonic()
        one.status, one.note = status, note or one.note
        if status in _AT_FAULT:
            for other in self.progress.values():
                if other.status == "waiting" and name in other.step.after:
                    self.mark(other.step.name, "blocked", f"waits for {name}")

    def with_status(self, *statuses: Status) -> list[Step]:
        """The steps of these statuses."""
        return [one.step for one in self.progress.values() if one.status in statuses]

    @property
    def is_over(self) -> bool:
        """Whether nothing runs and nothing can start."""
        return not self.with_status("waiting", *UNDER_WAY)

    @property
    def succeeded(self) -> bool:
        """Whether everything is there."""
        return not self.with_status("waiting", *UNDER_WAY, *_AT_FAULT)

    def _before(self, step: Step) -> list[str]:
        return [name for name in step.after if name in self.progress]
