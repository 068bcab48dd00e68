"""Running a Python program that a model wrote, in a child process with limits.

The limits keep a program that loops, grows, forks or fills the disk from doing harm by accident.
Where ``bwrap`` (bubblewrap) is installed and works, the child also has no network and sees the file
system read-only; without it, a program made to do harm could do it. Nobody runs code by default:
evaluations ask for it with ``--allow-code-execution``.
"""

import contextlib
import functools
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

MEMORY_BYTES = 2 << 30
_FILE_BYTES = 1 << 20
_OPEN_FILES = 64
_MOST_OUTPUT = 64_000

_LIMITS = """
import resource
for _name, _limit in {limits}:
    resource.setrlimit(getattr(resource, _name), (_limit, _limit))
del resource, _name, _limit
"""


@dataclass(frozen=True)
class Outcome:
    """How a program ended."""

    passed: bool
    """It ran to its end without an exception."""
    timed_out: bool
    output: str
    """The end of what it wrote."""


def run_program(program: str, *, timeout_s: float) -> Outcome:
    """Run ``program`` (Python source) for at most ``timeout_s`` seconds.

    It has 2 GiB of memory, no second process, an empty environment, and a folder of its own that is
    deleted afterwards. Never raises for anything that the program does.
    """
    # Only who reaches the end knows the word: a program that exits early has not passed.
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="weft-sandbox-") as folder:
        path = Path(folder) / "program.py"
        source = f"{_limits(timeout_s)}\n{program}\n\nprint({word!r})\n"
        path.write_text(source, encoding="utf-8", errors="replace")
        return _run(
            [*_wall(folder), sys.executable, "-I", "-S", str(path)], folder, word, timeout_s
        )


def _run(command: list[str], folder: str, word: str, timeout_s: float) -> Outcome:
    with (Path(folder) / "output").open("wb+") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            code, timed_out = child.wait(timeout_s), False
        except subprocess.TimeoutExpired:
            code, timed_out = -signal.SIGKILL, True
        finally:
            _kill(child)
        size = output.seek(0, os.SEEK_END)
        output.seek(max(0, size - _MOST_OUTPUT))
        text = output.read().decode("utf-8", "replace").rstrip()
    passed = code == 0 and text.endswith(word)
    return Outcome(passed, timed_out or code == -signal.SIGXCPU, text.removesuffix(word))


def _kill(child: "subprocess.Popen[bytes]") -> None:
    """End the child and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _limits(timeout_s: float) -> str:
    limits = (
        ("RLIMIT_CPU", int(timeout_s) + 1),
        ("RLIMIT_AS", MEMORY_BYTES),
        ("RLIMIT_FSIZE", _FILE_BYTES),
        ("RLIMIT_NOFILE", _OPEN_FILES),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    )
    return _LIMITS.format(limits=limits)


def _wall(folder: str) -> list[str]:
    """The beginning of the command where bubblewrap works: no network, files read-only."""
    if not _has_bubblewrap():
        return []
    return [*_BUBBLEWRAP, "--bind", folder, folder, "--chdir", folder]


_BUBBLEWRAP = [
    "bwrap",
    "--unshare-all",
    "--die-with-parent",
    "--ro-bind",
    "/",
    "/",
    "--dev",
    "/dev",
]


@functools.cache
def _has_bubblewrap() -> bool:
    if shutil.which("bwrap") is not None:
        trial = subprocess.run([*_BUBBLEWRAP, "true"], capture_output=True, check=False)
        if trial.returncode == 0:
            return True
    logger.warning("generated programs run without bubblewrap: they can reach network and files")
    return False
