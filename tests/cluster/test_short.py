"""The part of this folder's tests that always runs.

A stage loses a machine; a training that is a submitted job, and one that is killed, refused, and
runs out of disk, end with the same weights bit for bit.
"""

import os
import re
import signal
from pathlib import Path

import psutil
import pytest

from pipeline import artifacts
from pipeline.claim import CLAIM
from tests.cluster.raylets import Raylets
from tests.cluster.workload import CONFIG, check_whole, rows, submit, weights
from tests.pipeline.processes import TIMEOUT_S, fill, finish, noted_state, start, wait_for

LARGEST_UPLOAD = 32 * 2**20
SETTINGS = ("--data.num-shards", "4", "--train.epochs", "4", "--train.parallelism", "fsdp")


@pytest.fixture(scope="module")
def root(cluster: Raylets, small_disk: Path) -> Path:
    """A run with prepared data."""
    folder = small_disk / "short"
    job = submit(cluster, "prepare", "--run.output-dir", str(folder), *SETTINGS)
    assert job.returncode == 0, job.stdout + job.stderr
    return folder


def test_a_submitted_job_takes_a_small_copy_of_the_code_along(cluster: Raylets, root: Path) -> None:
    copies = [path for path in cluster.folder.rglob("_ray_pkg_*") if path.is_dir()]
    assert copies
    for copy in copies:
        files = [file for file in copy.rglob("*") if file.is_file()]
        assert sum(file.stat().st_size for file in files) < LARGEST_UPLOAD
        assert not {".git", ".venv", "runs"} & {path.name for path in copy.iterdir()}


def test_a_stage_that_loses_a_machine_loses_nothing(cluster: Raylets, root: Path) -> None:
    arguments = ("--run.output-dir", str(root), *SETTINGS)
    process = start("reference", CONFIG, *arguments, env=cluster.env)
    wait_for(lambda: list(root.glob("entropies/part-*.parquet")), process)
    worker = next(iter(cluster.workers("ray::MapWorker")))
    cluster.kill_node(cluster.node_of(worker))
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    cluster.add_node()
    check_whole(root)
    assert artifacts.read_manifest(str(root / "entropies")) is not None
    found = rows(root)
    assert {*found.values()} == {1}
    prepared, entropies = (
        {row[1] for row in found if row[0] == stage} for stage in ("prepare", "reference")
    )
    assert prepared == entropies


def test_a_submitted_a_killed_and_a_starved_training_end_with_the_same_weights(
    cluster: Raylets, root: Path, small_disk: Path
) -> None:
    place = ("--run.output-dir", str(root), *SETTINGS, "--rates.gamma", "0")
    job = submit(cluster, "train", *place, "--train.name", "whole")
    assert job.returncode == 0, job.stdout + job.stderr
    assert "train: 48 steps" in job.stdout
    assert re.search(
        r"step=40/48 loss=\S+ nll=\S+ tokens_per_second=\d+ seconds_left=\d+", job.stdout
    )

    arguments = (*place, "--train.name", "killed")
    folder = root / "checkpoints" / "killed"
    process = start("train", CONFIG, *arguments)  # on a Ray of its own, which dies with it
    wait_for(lambda: (folder / CLAIM).exists(), process)
    second = start("train", CONFIG, *arguments)
    output, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 2
    assert f"process {process.pid} on " in output
    assert "writes to this run" in output
    wait_for(lambda: noted_state(folder), process)
    ray = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert not psutil.wait_procs(ray, timeout=TIMEOUT_S)[1]  # none that would still write
    assert artifacts.read_manifest(str(folder)) is None

    process = start("train", CONFIG, *arguments, "--train.max-failures", "0", env=cluster.env)
    assert process.stdout is not None
    assert any("resumed step=" in line for line in process.stdout)
    first = noted_state(folder)
    wait_for(lambda: noted_state(folder) != first, process)
    fill(small_disk)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    if small_disk.is_mount():
        assert process.returncode == 2, output
        assert "no space left on device while the training state was written" in output
        (small_disk / "filler").unlink()
        assert artifacts.read_manifest(str(folder)) is None
        assert (folder / "state").is_dir()
        assert "resumed step=" in finish("train", CONFIG, *arguments, env=cluster.env)
    assert weights(root, "killed") == weights(root, "whole")
    steps = [
        (root / "checkpoints" / name / "metrics.jsonl").read_text() for name in ("whole", "killed")
    ]
    assert len(steps[0].splitlines()) == len(steps[1].splitlines())
    # Nothing but the last state is left behind.
    assert len(list(folder.glob("state/*/checkpoint_*/state.json"))) == 1
    check_whole(root)


def test_a_refused_job_fails_with_one_line(cluster: Raylets, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[run]\noutput_dirr = "elsewhere"\n')
    result = submit(cluster, "train", config=config)
    assert result.returncode != 0
    assert "did you mean" in result.stdout
    assert "output_dir" in result.stdout
    assert "Traceback" not in result.stdout
