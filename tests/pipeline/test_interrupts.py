"""Ctrl-C in a training, as a terminal sends it to all of its processes."""

import os
import signal
from pathlib import Path

import pytest

from pipeline import artifacts
from tests.cluster.workload import CONFIG
from tests.pipeline.processes import TIMEOUT_S, finish, noted_state, start, wait_for

pytestmark = pytest.mark.long


def test_an_interrupted_training_says_so_and_goes_on(tmp_path: Path) -> None:
    place = ("--run.output-dir", str(tmp_path), "--rates.gamma", "0")
    finish("prepare", CONFIG, *place)
    process = start("train", CONFIG, *place)
    folder = tmp_path / "checkpoints" / "weft"
    wait_for(lambda: noted_state(folder), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, output
    assert output.endswith("train: interrupted; the same command goes on from there\n")
    assert artifacts.read_manifest(str(folder)) is None
    assert "resumed step=" in finish("train", CONFIG, *place)
