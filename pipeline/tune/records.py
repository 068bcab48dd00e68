"""What is known of each trial, written as it happens: a search that is started again reads it.

One JSON file a trial. There is no pickled state: the proposals made so far are made again first,
and those that ended replay what they reported, so that the search knows what it knew.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from pipeline import artifacts, storage
from pipeline.train.held_out import NELBO

Status: TypeAlias = Literal["running", "finished", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One trial; its file is named by ``trial``."""

    arm: str
    number: int
    """Place among the trials of its arm."""
    params: dict[str, Any]
    status: Status = "running"
    reason: str = ""
    """Why it failed or was stopped."""
    reports: list[dict[str, float]] = field(default_factory=list)
    """``step``, ``percent`` of its steps, ``held_out_nelbo`` and ``seconds`` since it was begun, of
    each measure."""
    begun: float = 0.0
    """When it was scheduled, seconds since 1970."""
    seconds_to_start: float | None = None
    """From then to its first optimizer step; known once it has finished, but for resumed ones."""
    seconds_before: float = 0.0
    """How long earlier tries trained that were interrupted."""
    num_proposed: int = 1
    """How often its parameters were proposed: each time is one trial of the budget."""

    @property
    def trial(self) -> str:
        """Its name: a fingerprint of arm and parameters."""
        return trial_name(self.arm, self.params)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.status != "running"

    @property
    def nelbo(self) -> float | None:
        """The last measure."""
        return self.reports[-1][NELBO] if self.reports else None

    @property
    def seconds(self) -> float:
        """How long it trained."""
        return self.reports[-1]["seconds"] if self.reports else 0.0

    def add(self, report: dict[str, float]) -> None:
        """Take a measure; one of the same step or before, of a trial that went back, is dropped."""
        if not self.reports or report["step"] > self.reports[-1]["step"]:
            seconds = report["seconds"] + self.seconds_before
            self.reports.append(report | {"seconds": seconds})


def trial_name(arm: str, params: dict[str, Any]) -> str:
    """The name of a trial."""
    return f"{arm}-{artifacts.fingerprint([arm, params])[:8]}"


def write_record(folder: str, record: TrialRecord) -> None:
    """Write the record into the search's ``folder``."""
    storage.write_json(record_path(folder, record.trial), dataclasses.asdict(record))


def read_record(folder: str, trial: str) -> TrialRecord | None:
    """The record of ``trial``; None where it was never begun."""
    path = record_path(folder, trial)
    return TrialRecord(**storage.read_json(path)) if storage.exists(path) else None


def read_records(folder: str) -> list[TrialRecord]:
    """All records of the search in ``folder``, in the order in which its arms proposed them."""
    names = [n for n in storage.list_files(storage.join(folder, "trials")) if n.endswith(".json")]
    found = [TrialRecord(**storage.read_json(storage.join(folder, "trials", n))) for n in names]
    return sorted(found, key=lambda record: (record.arm, record.number))


def record_path(folder: str, trial: str) -> str:
    """The file of the record of ``trial``."""
    return storage.join(folder, "trials", f"{trial}.json")


def checkpoint_folder(folder: str, trial: str) -> str:
    """Where ``trial`` trains."""
    return storage.join(folder, "checkpoints", trial)
