"""A training job that is killed and started again ends with the same weights, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import artifacts

CONFIG = """
[run]
output_dir = "{root}/run"

[data]
max_length = 192
num_shards = 2

[[data.sources]]
kind = "task"
task = "sudoku"
count = 64

[model]
path = "{model}"

[rates]
gamma = 0.0

[train]
epochs = 16
batch_size = 8
warmup_steps = 4
checkpoint_every = 8
"""
_JOBS = Path(__file__).resolve().parents[2] / "jobs"
_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    root = tmp_path_factory.mktemp("kill")
    path = root / "config.toml"
    path.write_text(CONFIG.format(root=root, model=tiny_checkpoint))
    return path


def start(stage: str, config: Path, *arguments: str) -> "subprocess.Popen[str]":
    """The job as a process group of its own, with a Ray of its own."""
    return subprocess.Popen(
        [sys.executable, str(_JOBS / f"{stage}.py"), "--config", str(config), *arguments],
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(stage: str, config: Path, *arguments: str) -> str:
    process = start(stage, config, *arguments)
    output, _ = process.communicate(timeout=_TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def test_a_killed_training_ends_with_the_same_weights(config: Path) -> None:
    finish("prepare", config)
    finish("train", config, "--train.name", "whole")
    folder = config.parent / "run" / "checkpoints"
    process = start("train", config, "--train.name", "killed")
    deadline = time.monotonic() + _TIMEOUT_S
    while not list(folder.glob("killed/state/*/checkpoint_manager_snapshot.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=_TIMEOUT_S)
    assert artifacts.read_manifest(str(folder / "killed")) is None
    assert "resumed step=" in finish("train", config, "--train.name", "killed")
    whole, killed = (folder / name / "model.safetensors" for name in ("whole", "killed"))
    assert killed.read_bytes() == whole.read_bytes()
    steps = [(folder / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert len(steps[0].splitlines()) == len(steps[1].splitlines())
