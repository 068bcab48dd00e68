"""A cluster of three raylets, and a run on it that nothing disturbs."""

import subprocess
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.claim import CLAIM
from tests.cluster.object_store import ObjectStore, object_store
from tests.cluster.raylets import Raylets, raylets
from tests.cluster.workload import CONFIG
from tests.pipeline.processes import TIMEOUT_S, start, wait_for


@dataclass(frozen=True)
class Run:
    """A run that has ended, and what its pipeline printed."""

    root: Path
    output: str
    pid: int
    refused: "subprocess.CompletedProcess[str]"
    """A second pipeline in the same folder, while the first one ran."""


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """A head and two nodes."""
    with raylets(tmp_path_factory.mktemp("ray"), num_nodes=2) as made:
        yield made


@pytest.fixture(scope="package")
def store() -> Iterator[ObjectStore]:
    """An object store that can be made to fail."""
    with object_store() as made:
        yield made


@pytest.fixture(scope="package")
def unused(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    """Two nodes that reach the store, and that no killed driver's training still holds a part of.

    Ray keeps the resources of such a training for minutes.
    """
    with raylets(tmp_path_factory.mktemp("ray"), num_nodes=2, env=store.env) as made:
        yield made


@pytest.fixture(scope="package")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of its own that is soon full; without the right to mount one, a mere folder."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    if not is_mounted:
        warnings.warn("no right to mount a file system: a full disk is not tested", stacklevel=1)
    yield folder
    if is_mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="package")
def undisturbed(cluster: Raylets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """All stages, each as a job of its own, submitted by ``jobs/pipeline.py``."""
    root = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = ("--run.output-dir", str(root))
    process = start("pipeline", CONFIG, *arguments, env=cluster.job_env)
    wait_for(lambda: (root / "pipeline" / CLAIM).exists(), process)
    second = start("pipeline", CONFIG, *arguments, env=cluster.job_env)
    said, _ = second.communicate(timeout=TIMEOUT_S)
    output, _ = process.communicate(timeout=2 * TIMEOUT_S)
    assert process.returncode == 0, output
    print(output)
    refused = subprocess.CompletedProcess(second.args, second.returncode, said)
    return Run(root, output, process.pid, refused)
