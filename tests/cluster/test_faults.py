"""One fault after another in a training on several raylets, and in what is around it.

After each: an exit code and a message that say what happened, the weights of the undisturbed run
bit for bit, and nothing half-written.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from pipeline import artifacts
from tests.cluster.conftest import Run
from tests.cluster.raylets import Raylets
from tests.cluster.workload import CONFIG, check_whole, rows, weights
from tests.pipeline.processes import TIMEOUT_S, fill, finish, noted_state, start, wait_for

pytestmark = pytest.mark.cluster

A_DAY_S = 24 * 3600


class Training:
    """A training of the undisturbed run's data under a name of its own."""

    def __init__(self, cluster: Raylets, run: Run, name: str, *arguments: str) -> None:
        self.cluster, self.root, self.name = cluster, run.root, name
        self.folder = run.root / "checkpoints" / name
        self.arguments = ("--run.output-dir", str(run.root), "--train.name", name, *arguments)

    def start(self) -> "subprocess.Popen[str]":
        return start("train", CONFIG, *self.arguments, env=self.cluster.env)

    def under_way(self) -> "subprocess.Popen[str]":
        """Started, and past its first state."""
        process = self.start()
        wait_for(lambda: noted_state(self.folder), process)
        assert artifacts.read_manifest(str(self.folder)) is None
        return process

    def workers(self) -> list[psutil.Process]:
        return self.cluster.workers("ray::RayTrainWorker")

    def check(self) -> None:
        """It ended as if nothing had happened."""
        assert weights(self.root, self.name) == weights(self.root)
        manifest = artifacts.read_manifest(str(self.folder))
        assert manifest is not None
        artifacts.verify_files(str(self.folder), manifest)
        steps = [line for line in (self.folder / "metrics.jsonl").read_text().splitlines() if line]
        whole = (self.root / "checkpoints" / "weft" / "metrics.jsonl").read_text().splitlines()
        assert len(steps) == len(whole)


def kill_worker(training: Training) -> None:
    training.workers()[0].kill()


def kill_raylet(training: Training) -> None:
    """The machine of a worker is gone, and another one comes."""
    training.cluster.kill_node(training.cluster.node_of(training.workers()[0]))
    training.cluster.add_node()


def kill_gcs(training: Training) -> None:
    training.cluster.restart_gcs()


def stall_worker(training: Training) -> None:
    worker = training.workers()[0]
    worker.suspend()
    time.sleep(6)
    worker.resume()


def test_a_training_goes_on_when_started_again_and_by_itself(
    cluster: Raylets, undisturbed: Run
) -> None:
    training = Training(cluster, undisturbed, "disturbed")
    process = training.under_way()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == -signal.SIGKILL
    assert artifacts.read_manifest(str(training.folder)) is None
    for number, file in enumerate(sorted(undisturbed.root.rglob("*"))):
        skew = A_DAY_S if number % 2 else -A_DAY_S
        os.utime(file, (time.time() + skew, time.time() + skew))

    process = training.start()
    for fault in (kill_worker, kill_raylet, kill_gcs, stall_worker):
        before = noted_state(training.folder)
        wait_for(lambda before=before: noted_state(training.folder) != before, process)
        fault(training)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert "The actor died unexpectedly" in output
    assert "its node has died" in output
    # After its driver, its worker and its machine; neither the service nor the slow worker made it.
    assert output.count("resumed step=") == 3
    training.check()
    # Nothing is made anew for its age.
    root = ("--run.output-dir", str(undisturbed.root))
    assert "is already finished" in finish("reference", CONFIG, *root, env=cluster.env)


def test_a_second_pipeline_in_the_same_run_is_refused(undisturbed: Run) -> None:
    assert undisturbed.refused.returncode == 2
    said = undisturbed.refused.stdout
    assert re.search(rf"process {undisturbed.pid} on \S+ writes to this run", said)


@pytest.mark.parametrize("parallelism", ["fsdp", pytest.param("ddp", marks=pytest.mark.long)])
def test_workers_go_and_come(parallelism: str, unused: Raylets, undisturbed: Run) -> None:
    """Elastic: on one node after the other is lost, on two when another is there."""
    training = Training(
        *(unused, undisturbed, f"elastic-{parallelism}", "--train.cpus-per-worker", "2"),
        *("--train.min-workers", "1", "--train.resize-every-s", "2", "--train.epochs", "16"),
        *("--train.parallelism", parallelism),
    )
    process = training.under_way()
    wait_for(lambda: len(training.workers()) == 2, process)
    before = {worker.pid for worker in training.workers()}
    unused.kill_node(unused.nodes[-1])

    def alone() -> bool:
        now = {worker.pid for worker in training.workers()}
        return len(now) == 1 and not now & before

    wait_for(alone, process)
    state = noted_state(training.folder)
    wait_for(lambda: noted_state(training.folder) != state, process)
    unused.add_node()
    wait_for(lambda: len(training.workers()) == 2, process)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    assert re.search(r"resumed step=\d+ of=192 workers=1", output)
    assert re.search(r"resumed step=\d+ of=192 workers=2", output)
    # The same steps over the same examples, each once, on however many workers.
    found = _tokens(training.folder)
    assert [*found] == sorted({*range(6, 193, 6), *range(10, 193, 10)})
    whole = _tokens(undisturbed.root / "checkpoints" / "weft")
    assert {step: found[step] for step in whole} == whole
    weights_of = load_file(training.folder / "model.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights_of.values())


def _tokens(folder: Path) -> dict[int, int]:
    """Of the steps up to each that is logged or saved, since the one before."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {values["step"]: values["tokens"] for values in map(json.loads, lines)}


def test_a_full_disk_stops_the_reference_job_and_room_lets_it_go_on(
    cluster: Raylets, undisturbed: Run, small_disk: Path
) -> None:
    if not small_disk.is_mount():
        pytest.skip("needs the right to mount a file system")
    root = small_disk / "run"
    arguments = ("--run.output-dir", str(root))
    shutil.copytree(undisturbed.root / "prepared", root / "prepared")
    process = start("reference", CONFIG, *arguments, env=cluster.env)
    wait_for(lambda: list(root.glob("entropies/part-*.parquet")), process)
    fill(small_disk)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    assert "cannot be written: No space left on device" in output
    check_whole(root)
    assert artifacts.read_manifest(str(root / "entropies")) is None
    (small_disk / "filler").unlink()
    finish("reference", CONFIG, *arguments, env=cluster.env)
    check_whole(root)
    wanted = {key: n for key, n in rows(undisturbed.root).items() if key[0] == "reference"}
    assert {key: n for key, n in rows(root).items() if key[0] == "reference"} == wanted
    names = [file.name for file in (root / "entropies").glob("*.parquet")]
    for name in names:
        whole = (undisturbed.root / "entropies" / name).read_bytes()
        assert (root / "entropies" / name).read_bytes() == whole
