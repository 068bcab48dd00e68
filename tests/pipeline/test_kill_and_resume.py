"""A training job on two ranks that is killed, runs out of disk, and is started again ends with the
same weights bit for bit."""

import os
import signal
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.claim import CLAIM
from tests.pipeline.processes import TIMEOUT_S, fill, finish, noted_state, start, wait_for

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
epochs = 6
batch_size = 8
warmup_steps = 4
checkpoint_every = 8
parallelism = "fsdp"
num_workers = 2
cpus_per_worker = 1.0
"""


@pytest.fixture
def config(small_disk: Path, tiny_checkpoint: Path) -> Path:
    path = small_disk / "config.toml"
    path.write_text(CONFIG.format(root=small_disk, model=tiny_checkpoint))
    return path


def test_a_killed_and_a_starved_training_end_with_the_same_weights(config: Path) -> None:
    disk = config.parent
    finish("prepare", config)
    finish("train", config, "--train.name", "whole")
    folder = disk / "run" / "checkpoints" / "killed"
    process = start("train", config, "--train.name", "killed")
    wait_for(lambda: (folder / CLAIM).exists(), process)
    second = start("train", config, "--train.name", "killed")
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    assert f"process {process.pid} on " in output
    assert "writes to this run" in output
    wait_for(lambda: noted_state(folder), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert artifacts.read_manifest(str(folder)) is None

    process = start("train", config, "--train.name", "killed", "--train.max-failures", "0")
    assert process.stdout is not None
    # By then what the killed job left of its Ray is gone, and writes no more.
    assert any("resumed step=" in line for line in process.stdout)
    first = noted_state(folder)
    wait_for(lambda: noted_state(folder) != first, process)
    fill(disk)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    if disk.is_mount():
        assert process.returncode == 2, output
        assert "no space left on device while the training state was written" in output
        (disk / "filler").unlink()
        assert artifacts.read_manifest(str(folder)) is None
        assert (folder / "state").is_dir()
        output = finish("train", config, "--train.name", "killed")
        assert "resumed step=" in output
    names = ("whole", "killed")
    whole, killed = (folder.parent / name / "model.safetensors" for name in names)
    assert killed.read_bytes() == whole.read_bytes()
    steps = [(folder.parent / name / "metrics.jsonl").read_text() for name in names]
    assert len(steps[0].splitlines()) == len(steps[1].splitlines())
    # Nothing but the last state is left behind.
    assert len(list(folder.glob("state/*/checkpoint_*/state.json"))) == 1
