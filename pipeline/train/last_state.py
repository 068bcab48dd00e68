"""The last whole training state of a run, known even where Ray Train lost count.

Ray Train lists a run's states in one file, which it writes in place: a full disk or a kill at the
wrong moment leaves it torn, and every later start would fail on it. So the last state that all
workers have written is noted beside it as well, in a file that appears whole or not at all. Ray
deletes older states only after its own file is written: whichever of the two is whole, its state is
there.
"""

import json
import logging
from typing import Any

from ray.train import Checkpoint, UserCallback

from pipeline import storage
from pipeline.errors import ArtifactError

logger = logging.getLogger(__name__)

_NOTE, _OF_RAY = "last_state.json", "checkpoint_manager_snapshot.json"
_STATE = "checkpoint_"
"""What Ray's names of states begin with."""
_FULL = "No space left on device"


class NoteLastState(UserCallback):  # type: ignore[misc]
    """Writes the note into ``folder``, that of the run's states, after each of them."""

    def __init__(self, folder: str) -> None:
        """See the class."""
        self.folder = folder

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None
    ) -> None:
        """Note ``checkpoint``, which all workers have written; Ray's controller calls it."""
        if checkpoint is not None:
            name = str(checkpoint.path).rstrip("/").rpartition("/")[2]
            storage.write_json(storage.join(self.folder, _NOTE), {"state": name})


def take_over(folder: str) -> str | None:
    """The noted state, where Ray's own list in ``folder`` is torn or gone; else None.

    A torn list is removed: Ray then begins a new one. So are states that neither of the two names,
    which were not written to their end.
    """
    listed = _whole_list(storage.join(folder, _OF_RAY))
    noted = _noted(folder)
    for name in storage.list_files(folder):
        is_state = name.startswith(_STATE) and name != _OF_RAY
        if is_state and name != noted and name not in (listed or ""):
            storage.remove(storage.join(folder, name))
    if listed is not None or noted is None:
        return None
    logger.warning("list_of_states=torn continuing_from=%s", noted)
    return storage.join(folder, noted)


def _whole_list(path: str) -> str | None:
    """The text of Ray's list; None where there is none, or none any more."""
    if not storage.exists(path):
        return None
    text = storage.read_bytes(path).decode("utf-8", "replace")
    try:
        json.loads(text)
    except ValueError:
        storage.remove(path)
        return None
    return text


def _noted(folder: str) -> str | None:
    note = storage.join(folder, _NOTE)
    if not storage.exists(note):
        return None
    name = str(storage.read_json(note)["state"])
    return name if storage.exists(storage.join(folder, name)) else None


def explain(error: BaseException, folder: str) -> ArtifactError | None:
    """What a user can do about ``error`` of a run whose states lie in ``folder``; None if nothing.

    Ray wraps what happened, in its own process or a worker's, as text.
    """
    if _FULL not in str(error):
        return None
    return ArtifactError(
        f"{folder}: {_FULL.lower()} while the training state was written; the last whole state is "
        f"kept: make room, and start the same command again"
    )
