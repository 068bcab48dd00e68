"""The evaluation job killed at random points ends with every item once, as if undisturbed."""

import contextlib
import os
import random
import re
import signal
import time
from pathlib import Path

import psutil
import pytest

from pipeline.evaluate.rows import PARTS, PartReader, read_rows
from tests.pipeline.processes import finish, start, wait_for
from tests.pipeline.test_reference_kills import actors

CONFIG = """
[run]
output_dir = "{root}/{run}"

[model]
path = "{model}"

[evaluate]
num_items = 60
gen_lengths = [64]
block_length = 32
steps = 64
early_stop = false
temperature = 1.0
batch_size = 4
num_actors = 2
num_cpus = 1.0
"""


@pytest.mark.long
def test_five_kills_lose_and_repeat_no_item(tmp_path: Path, tiny_checkpoint: Path) -> None:
    for run in ("killed", "whole"):
        text = CONFIG.format(root=tmp_path, run=run, model=tiny_checkpoint)
        (tmp_path / f"{run}.toml").write_text(text)
    folder = tmp_path / "killed" / "evaluations" / "base"
    draws, seen = random.Random(0), set()
    for number in range(5):
        process = start("evaluate", tmp_path / "killed.toml")
        there = len(seen)
        wait_for(lambda there=there: len(PartReader(str(folder)).poll()) > there, process)
        # What the actors of the run before still wrote may have come first.
        wait_for(lambda process=process: actors(process.pid), process)
        time.sleep(draws.uniform(0, 1))
        with contextlib.suppress(psutil.NoSuchProcess):
            if number % 2:  # an actor, which Ray replaces, and then all
                draws.choice(actors(process.pid)).kill()
                time.sleep(draws.uniform(0, 2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        found = {row["item_id"] for row in PartReader(str(folder)).poll()}
        assert seen < found
        seen = found
    output = finish("evaluate", tmp_path / "killed.toml")
    found = re.search(r"items_there=(\d+) items_missing=(\d+)", output)
    assert found is not None
    there, missing = map(int, found.groups())
    assert len(seen) <= there  # actors outlive their driver for a moment
    assert there + missing == 120
    finish("evaluate", tmp_path / "whole.toml")
    timeless = {"seconds": 0, "latency": 0}
    killed, whole = (
        [row | timeless for row in read_rows(str(tmp_path / run / "evaluations" / "base"))]
        for run in ("killed", "whole")
    )
    assert killed == whole
    assert len(killed) == 120
    assert not (folder / PARTS).exists()
