"""The last training state is found where Ray Train's own list of states is torn or gone."""

from pathlib import Path

import pytest
from ray.train import Checkpoint, ControllerError

from pipeline import storage
from pipeline.train.last_state import NoteLastState, explain, take_over

LIST = "checkpoint_manager_snapshot.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a run that noted two states, of which Ray has deleted the first."""
    note = NoteLastState(str(tmp_path))
    for name in ("checkpoint_2026-1", "checkpoint_2026-2"):
        note.after_report(None, [], Checkpoint(str(tmp_path / name)))
    note.after_report(None, [], None)  # a report of metrics alone
    (tmp_path / "checkpoint_2026-2").mkdir()
    (tmp_path / LIST).write_text("{}")
    return tmp_path


def test_a_whole_list_is_left_to_ray(folder: Path) -> None:
    assert take_over(str(folder)) is None
    assert (folder / LIST).exists()


@pytest.mark.parametrize("content", ["", '{"latest'])
def test_of_a_torn_list_the_noted_state_is_taken_again_and_again(
    folder: Path, content: str
) -> None:
    (folder / LIST).write_text(content)
    wanted = storage.join(str(folder), "checkpoint_2026-2")
    assert take_over(str(folder)) == wanted
    assert not (folder / LIST).exists()
    # A start that is killed before its own first state has changed nothing.
    assert take_over(str(folder)) == wanted


def test_without_a_noted_state_training_starts_anew(folder: Path, tmp_path: Path) -> None:
    (folder / LIST).unlink()
    (folder / "checkpoint_2026-2").rmdir()
    assert take_over(str(folder)) is None
    assert take_over(str(tmp_path / "nothing")) is None


def test_states_that_were_not_written_to_their_end_are_removed(folder: Path) -> None:
    for name in ("checkpoint_2026-3", "checkpoint_2026-4"):
        (folder / name).mkdir()
    (folder / LIST).write_text('{"latest": "checkpoint_2026-3"}')
    assert take_over(str(folder)) is None
    assert sorted(p.name for p in folder.glob("checkpoint_2*")) == [
        "checkpoint_2026-2",  # the noted one
        "checkpoint_2026-3",
    ]


def test_a_full_disk_is_explained_and_nothing_else_is() -> None:
    full = ControllerError(OSError(28, "No space left on device"))
    assert "make room" in str(explain(full, "runs/x"))
    assert explain(ControllerError(RuntimeError("else")), "runs/x") is None
