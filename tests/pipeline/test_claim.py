"""Two processes never write to one run."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ArtifactError
from pipeline.train import claim
from pipeline.train.claim import CLAIM, claimed

HOLD = """
import sys, time
from pipeline.train.claim import claimed
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


@pytest.mark.parametrize(("age", "is_free"), [(20.0, False), (120.0, True)])
def test_another_machine_is_believed_for_a_minute(
    tmp_path: Path, age: float, is_free: bool
) -> None:
    found = {"token": "x", "host": "elsewhere", "pid": 1, "started": 0.0}
    storage.write_json(str(tmp_path / CLAIM), found | {"renewed": time.time() - age})
    if is_free:
        with claimed(str(tmp_path)):
            pass
    else:
        with pytest.raises(ArtifactError, match="elsewhere"), claimed(str(tmp_path)):
            pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}'])
def test_a_damaged_claim_is_taken_over(tmp_path: Path, content: str) -> None:
    (tmp_path / CLAIM).write_text(content)
    with claimed(str(tmp_path)):
        assert storage.read_json(str(tmp_path / CLAIM))["pid"] == os.getpid()


def test_the_claim_is_given_back_when_the_run_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyError), claimed(str(tmp_path)):
        raise KeyError
    assert not (tmp_path / CLAIM).exists()
