"""Jobs as processes of their own, which tests may kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

_JOBS = Path(__file__).resolve().parents[2] / "jobs"
TIMEOUT_S = 240
"""Of one job."""


def start(
    stage: str, config: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[str]":
    """The job as a process group of its own, with a Ray of its own unless ``env`` names one."""
    return subprocess.Popen(
        [sys.executable, str(_JOBS / f"{stage}.py"), "--config", str(config), *arguments],
        env={**os.environ, "RAY_AUTH_MODE": "disabled", **(env or {})},
        start_new_session=True,
        # Of what a shell starts in the background it would be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(stage: str, config: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """Run the job to its end; what it printed."""
    process = start(stage, config, *arguments, env=env)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def wait_for(what: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    """Wait until ``what()`` is true; the job must not end before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not what():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def noted_state(folder: Path) -> str:
    """What the note of the last state says; empty before there is one."""
    notes = list(folder.glob("state/*/last_state.json"))
    return json.loads(notes[0].read_text())["state"] if notes else ""


def fill(disk: Path) -> None:
    """Leave no room on the file system, or, where it is not one of its own, do what that does."""
    if disk.is_mount():
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
