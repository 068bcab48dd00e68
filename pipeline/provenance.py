"""What made an artifact, beside its configuration: code, libraries and machine."""

import functools
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

_LIBRARIES = ("torch", "transformers", "ray")
_UNKNOWN = "unknown"


@functools.cache
def provenance() -> dict[str, str]:
    """Version and commit of this code, versions of libraries, and the machine that asks.

    That is the one of the job; its workers may run on others.
    """
    versions = [f"{name} {_version(name)}" for name in ("weft", *_LIBRARIES)]
    return {
        "code": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "commit": _commit(),
        "machine": f"{_processor()}, {len(os.sched_getaffinity(0))} cores{_gpus()}",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _UNKNOWN


def _commit() -> str:
    """Of the working copy that this file is part of; ``-dirty`` with changes."""
    here = Path(__file__).resolve()
    # An installed copy may lie in the working copy of something else.
    if not _output("git", "-C", str(here.parent), "ls-files", here.name):
        return _UNKNOWN
    describe = ("describe", "--always", "--dirty", "--abbrev=12")
    return _output("git", "-C", str(here.parent), *describe) or _UNKNOWN


def _output(*command: str) -> str:
    """What ``command`` prints; nothing where it cannot run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def _gpus() -> str:
    """Names of the GPUs that NVIDIA's driver lists, without loading anything."""
    names = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").splitlines()
    return "".join(f", {names.count(name)} x {name}" for name in dict.fromkeys(names))
