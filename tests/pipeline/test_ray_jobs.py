"""Stages as Ray jobs: submitted with this project as working directory, run on that cluster."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
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
count = 16

[model]
path = "{model}"

[rates]
gamma = 0.0

[train]
name = "sft"
epochs = 1
batch_size = 8
warmup_steps = 1
cpus_per_worker = 1
"""
_ROOT = Path(__file__).resolve().parents[2]
_TIMEOUT_S = 240
# The job runs what `python` names on the cluster: this environment's.
_ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a cluster's job server; the cluster is a process group of its own."""
    port, dashboard_port, agent_port = free_ports(3)
    address = f"http://127.0.0.1:{dashboard_port}"
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder:
        log = Path(folder) / "log"
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block"]
        options = [f"--port={port}", f"--dashboard-port={dashboard_port}", "--num-cpus=2"]
        # Beside another Ray of this machine, which has the usual one, no job could be submitted.
        options.append(f"--dashboard-agent-listen-port={agent_port}")
        with log.open("w") as output:
            head = subprocess.Popen(
                [*command, *options, "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray"],
                env=_ENVIRONMENT,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            deadline = time.monotonic() + _TIMEOUT_S
            while not _answers(f"{address}/api/version"):
                assert head.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.5)
            yield address
        finally:
            # Asked to end, it would wait half a minute for what it started.
            started = psutil.Process(head.pid).children(recursive=True)
            for process in [head, *started]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            head.wait(timeout=60)
            psutil.wait_procs(started, timeout=60)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False


def submit(dashboard: str, *entrypoint: str) -> subprocess.CompletedProcess[str]:
    ray = str(Path(sys.executable).parent / "ray")
    options = ["--address", dashboard, "--working-dir", "."]
    return subprocess.run(
        [ray, "job", "submit", *options, "--", "python", *entrypoint],
        cwd=_ROOT,
        env=_ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )


def test_submitted_stages_run_on_the_cluster(
    dashboard: str, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(root=tmp_path, model=tiny_checkpoint))
    for stage in ("prepare", "train"):
        result = submit(dashboard, f"jobs/{stage}.py", "--config", str(config))
        assert result.returncode == 0, result.stdout + result.stderr
        assert re.search(rf"{stage}: \d+ (examples|steps)", result.stdout)
    folder = str(tmp_path / "run" / "checkpoints" / "sft")
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    artifacts.verify_files(folder, manifest)
    assert manifest.facts["steps"] == 2


def test_a_refused_job_fails_with_one_line(dashboard: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[run]\noutput_dirr = "elsewhere"\n')
    result = submit(dashboard, "jobs/train.py", "--config", str(config))
    assert result.returncode != 0
    assert "did you mean" in result.stdout
    assert "output_dir" in result.stdout
    assert "Traceback" not in result.stdout
