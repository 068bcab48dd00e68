"""Two processes never write to one run."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import claim, storage
from pipeline.claim import CLAIM, claimed
from pipeline.errors import ArtifactError

HOLD = """
import sys, time
from pipeline.claim import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second in which two that start together would find each other; one starts here."""
    monkeypatch.setattr(claim, "_SETTLE_S", 0.0)


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_living_process_keeps_others_out(tmp_path: Path, holder: subprocess.Popen) -> None:
    before = (tmp_path / CLAIM).read_bytes()
    with (
        pytest.raises(ArtifactError, match=rf"process {holder.pid} on .* writes to this run"),
        claimed(str(tmp_path)),
    ):
        pass
    assert (tmp_path / CLAIM).read_bytes() == before


def test_what_a_killed_process_left_is_free_at_once(
    tmp_path: Path, holder: subprocess.Popen
) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / CLAIM).exists()
    with claimed(str(tmp_path)):
        assert storage.read_json(str(tmp_path / CLAIM))["pid"] == os.getpid()
    assert not (tmp_path / CLAIM).exists()


@pytest.mark.parametrize("skew", [-86400.0, 0.0, 86400.0])
@pytest.mark.parametrize("is_alive", [False, True])
def test_another_machine_is_watched_whatever_its_clock_says(
    tmp_path: Path, skew: float, is_alive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_LOOK_S", 0.02)
    monkeypatch.setattr(claim, "_STALE_S", 0.5)
    path = str(tmp_path / CLAIM)
    found = {"token": "x", "host": "elsewhere", "pid": 1, "started": 0.0}
    storage.write_json(path, found | {"renewed": time.time() + skew})
    renewal = threading.Timer(
        0.1, lambda: storage.write_json(path, found | {"renewed": time.time() + skew + 15})
    )
    if is_alive:
        renewal.start()
        with pytest.raises(ArtifactError, match="process 1 on elsewhere"), claimed(str(tmp_path)):
            pass
        renewal.join()
    else:
        with claimed(str(tmp_path)):
            pass


def test_a_container_of_the_same_name_is_another_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process numbers say nothing here."""
    monkeypatch.setattr(claim, "_LOOK_S", 0.02)
    monkeypatch.setattr(claim, "_STALE_S", 0.1)
    path = str(tmp_path / CLAIM)
    here = claim._describe() | {"token": "x"}  # of this very process, which lives
    storage.write_json(path, here)
    with pytest.raises(ArtifactError, match=f"process {os.getpid()} on"), claimed(str(tmp_path)):
        pass
    storage.write_json(path, here | {"namespace": "pid:[1]"})
    with claimed(str(tmp_path)):
        assert storage.read_json(path)["namespace"] == here["namespace"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}'])
def test_a_damaged_claim_is_taken_over(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "_STALE_S", 0.0)
    (tmp_path / CLAIM).write_text(content)
    with claimed(str(tmp_path)):
        assert storage.read_json(str(tmp_path / CLAIM))["pid"] == os.getpid()


def test_the_claim_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(str(tmp_path)):
        raise KeyError
    assert not (tmp_path / CLAIM).exists()
