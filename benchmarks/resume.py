"""From a kill to the first new step: ``python -m benchmarks.resume``.

The train job of the embedded denoiser on two workers is killed with all its processes once it has a
state, and the same command is started at once; and a worker alone is killed, which Ray Train starts
again by itself. The clock runs from the kill to the log line of the first step behind the state.
"""

import os
import re
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import tyro

from benchmarks.jobs import job_command, prepare_puzzles, wait_for_state
from benchmarks.measure import print_results


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How often it is measured."""

    rounds: int = 3


@contextmanager
def _job(config: Path, name: str) -> Iterator["subprocess.Popen[str]"]:
    """The job as a process group of its own, with a Ray of its own; killed at the end."""
    process = subprocess.Popen(
        job_command("train", config, "--train.name", name),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_step(process: "subprocess.Popen[str]", *, resumed: bool) -> None:
    """Until a step is logged; ``resumed``: behind a line that says so."""
    assert process.stdout is not None
    for line in process.stdout:
        resumed = resumed and "resumed step=" not in line
        if not resumed and re.search(r"step=\d+/\d+ ", line):
            return
    raise SystemExit("the job ended before a step; run it by itself to see why")


def _after_job(config: Path, name: str) -> float:
    """Seconds after all processes are killed."""
    with _job(config, name) as process:
        wait_for_state(config.parent / "checkpoints" / name, process)
    started = time.perf_counter()
    with _job(config, name) as process:
        _wait_for_step(process, resumed=True)
        return time.perf_counter() - started


def _after_worker(config: Path, name: str) -> float:
    """Seconds after one worker is killed."""
    with _job(config, name) as process:
        wait_for_state(config.parent / "checkpoints" / name, process)
        workers = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if any("RayTrainWorker" in part for part in child.cmdline())
        ]
        workers[0].kill()
        started = time.perf_counter()
        _wait_for_step(process, resumed=True)
        return time.perf_counter() - started


def main(settings: Settings) -> None:
    """Measure both, and print their medians."""
    with tempfile.TemporaryDirectory() as folder:
        config = prepare_puzzles(
            Path(folder), epochs=200, num_workers=2, log_every=1, checkpoint_every=20
        )
        seconds: dict[str, list[float]] = {"job": [], "worker": []}
        for number in range(settings.rounds):
            seconds["job"].append(_after_job(config, f"job-{number}"))
            seconds["worker"].append(_after_worker(config, f"worker-{number}"))
    for name, values in seconds.items():
        print(f"after the kill of a {name}: {', '.join(f'{s:.1f}' for s in values)} s")
    print_results(
        seconds_to_first_step=statistics.median(seconds["job"]),
        seconds_after_worker=statistics.median(seconds["worker"]),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
