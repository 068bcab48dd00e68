"""Clusters of several raylets on one machine, made of processes that tests may kill."""

import contextlib
import os
import signal
import socket
from pathlib import Path

import psutil


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def end_processes_of(folder: Path) -> None:
    """Kill every process of the Ray whose files are in ``folder``."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_named = any(str(folder) in word for word in process.cmdline())
            is_of_it = is_named or process.environ().get("RAY_TMPDIR") == str(folder)
            if is_of_it and process.pid != os.getpid():
                process.send_signal(signal.SIGKILL)
