"""The reference job killed at random points ends with every example once, and the same bytes."""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch

from pipeline import artifacts, storage
from pipeline.config_file import load_config
from pipeline.layout import layout
from pipeline.models import open_denoiser
from pipeline.reference.entropies import shard_entropies
from tests.pipeline.processes import finish, start

CONFIG = """
[run]
output_dir = "{root}/run"

[data]
max_length = 192
num_shards = 24

[[data.sources]]
kind = "task"
task = "sudoku"
count = 240

[model]
path = "{model}"

[reference]
estimator = "expected"
num_levels = 16
num_actors = 2
num_cpus = 1.0
"""


def actors(driver: int) -> list[psutil.Process]:
    """Processes of the job that hold a model."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if " ".join(process.cmdline()).startswith("ray::MapWorker"):
                found.append(process)
    return found


def kill_something(process: "subprocess.Popen[str]", draws: random.Random) -> str:
    """SIGKILL to the driver or to an actor, at some moment after the actors are there."""
    while process.poll() is None and not actors(process.pid):
        time.sleep(0.05)
    time.sleep(draws.uniform(0.2, 4.0))
    alive = actors(process.pid) if process.poll() is None else []
    if not alive:
        return ""
    if draws.random() < 0.4:
        os.kill(process.pid, signal.SIGKILL)
        return "driver"
    with contextlib.suppress(psutil.NoSuchProcess):
        draws.choice(alive).kill()
    return "actor"


def wanted_bytes(config_file: Path, folder: Path) -> dict[str, bytes]:
    """The shards computed one after another in this process."""
    config = load_config(str(config_file))
    prepared = artifacts.require(layout(config).prepared, "prepare", hint="")
    denoiser = open_denoiser(config.model.path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name in prepared.shards:
        table = storage.read_table(f"{layout(config).prepared}/{name}")
        storage.write_table(str(folder / name), shard_entropies(denoiser, table, config))
    torch.set_num_threads(threads)
    return {name: (folder / name).read_bytes() for name in prepared.shards}


@pytest.mark.long
def test_ten_kills_lose_and_repeat_nothing(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(root=tmp_path, model=tiny_checkpoint))
    finish("prepare", config)
    draws, killed = random.Random(0), []
    while len(killed) < 10:
        process = start("reference", config)
        while len(killed) < 10 and process.poll() is None:
            victim = kill_something(process, draws)
            killed += [victim] if victim else []
        if process.poll() is None and killed[-1] != "driver":
            process.communicate()
        assert process.wait() in (0, -signal.SIGKILL)
        if process.returncode == 0 and len(killed) < 10:
            pytest.fail(f"it ended after {len(killed)} kills: {killed}")
    finish("reference", config)
    folder = Path(layout(load_config(str(config))).entropies)
    manifest = artifacts.require(str(folder), "reference", hint="")
    artifacts.verify_files(str(folder), manifest)
    assert {"driver", "actor"} == {*killed}
    assert {name: (folder / name).read_bytes() for name in manifest.shards} == wanted_bytes(
        config, tmp_path / "wanted"
    )
    assert manifest.rejected == {}
