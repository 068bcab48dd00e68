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
_HIDDEN = ("/tmp", "/run", "/home", "/root")
"""Folders that are empty inside of the wall: sockets, and what is others'."""

_RUNNER = """
import resource
for name, limit in {limits}:
    resource.setrlimit(getattr(resource, name), (limit, limit))
with open({path!r}, encoding="utf-8") as file:
    program = compile(file.read(), "program.py", "exec")
exec(program, {{"__name__": "__main__"}})
print({word!r})
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
    # A program that exits before its end has not passed. One that means to cheat finds the word.
    word = secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="weft-sandbox-")
    try:
        path, runner = Path(folder) / "program.py", Path(folder) / "runner.py"
        path.write_text(program, encoding="utf-8", errors="replace")
        runner.write_text(_RUNNER.format(limits=_limits(timeout_s), path=str(path), word=word))
        command = [*_wall(folder), sys.executable, "-I", "-S", str(runner)]
        return _run(command, folder, word, timeout_s)
    finally:
        # Not shutil: a program may leave folders deeper than Python recurses.
        subprocess.run(["rm", "-rf", "--", folder], check=False, capture_output=True)


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


def _limits(timeout_s: float) -> tuple[tuple[str, int], ...]:
    return (
        ("RLIMIT_CPU", int(timeout_s) + 1),
        ("RLIMIT_AS", MEMORY_BYTES),
        ("RLIMIT_FSIZE", _FILE_BYTES),
        ("RLIMIT_NOFILE", _OPEN_FILES),
        ("RLIMIT_NPROC", 0),
        ("RLIMIT_CORE", 0),
    )


def _wall(folder: str) -> list[str]:
    """The beginning of the command where bubblewrap works: no network, files read-only.

    Of others' homes, sockets and processes it sees nothing.
    """
    if not _has_bubblewrap():
        return []
    return [*_bubblewrap(), "--bind", folder, folder, "--chdir", folder]


def _bubblewrap() -> list[str]:
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session"]
    command += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for folder in filter(os.path.isdir, _HIDDEN):
        command += ["--tmpfs", folder]
    # The interpreter may lie in somebody's home.
    for prefix in sorted({sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent)}):
        if prefix.startswith(tuple(f"{folder}/" for folder in _HIDDEN)):
            command += ["--ro-bind", prefix, prefix]
    return command


@functools.cache
def _has_bubblewrap() -> bool:
    if shutil.which("bwrap") is not None:
        trial = subprocess.run(
            [*_bubblewrap(), sys.executable, "-I", "-S", "-c", ""], capture_output=True, check=False
        )
        if trial.returncode == 0:
            return True
    logger.warning("generated programs run without bubblewrap: they can reach network and files")
    return False
