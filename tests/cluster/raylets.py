"""Clusters of several raylets on one machine, made of processes that tests may kill."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

CPUS_OF_A_NODE = 2
GCS_AWAY_S = 2.0
_OTHERS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def processes_of(folder: Path) -> Iterator[psutil.Process]:
    """Every process of the Ray whose files are in ``folder``."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            is_named = any(str(folder) in word for word in process.cmdline())
            is_of_it = is_named or process.environ().get("RAY_TMPDIR") == str(folder)
            if is_of_it and process.pid != os.getpid():
                yield process


def end_processes_of(folder: Path) -> None:
    """Kill every process of the Ray whose files are in ``folder``."""
    for process in processes_of(folder):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)


class Raylets:
    """A head without CPUs of its own, which keeps its tables on disk, and nodes that come and go.

    Everything listens on this machine alone.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        """Start the head; ``env`` is of all that runs on the cluster."""
        from ray.cluster_utils import Cluster

        self.folder, self._extra = folder, dict(env)
        port = free_port()
        self.dashboard = f"http://127.0.0.1:{port}"
        (folder / "gcs").mkdir(parents=True)
        (folder / "ray").mkdir()
        with self._environment():
            self.cluster = Cluster(
                initialize_head=True,
                head_node_args={
                    "num_cpus": 0,
                    "gcs_server_port": free_port(),
                    "node_ip_address": "127.0.0.1",
                    "include_dashboard": True,
                    "dashboard_host": "127.0.0.1",
                    "dashboard_port": port,
                    "dashboard_agent_listen_port": free_port(),
                },
            )
        self.address = str(self.cluster.address)
        (info,) = self.cluster.head_node.all_processes["gcs_server"]
        self._gcs = psutil.Process(info.process.pid)
        self.nodes: list[Any] = []
        self._num_made = 0

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """Of the cluster's own processes."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _OTHERS:
                patch.delenv(name, raising=False)
            for name, value in (self._own_env | self._extra).items():
                patch.setenv(name, value)
            patch.setenv("RAY_gcs_storage", "rocksdb")
            patch.setenv("RAY_gcs_storage_path", str(self.folder / "gcs"))
            # A raylet that is gone is noticed within seconds; one that is slow has as long as ever.
            patch.setenv("RAY_health_check_period_ms", "500")
            yield

    @property
    def _own_env(self) -> dict[str, str]:
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(self.folder),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # as on a Ray of one machine
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all of it on 127.0.0.1
        }

    @property
    def env(self) -> dict[str, str]:
        """What a driver of this cluster needs to know."""
        return self._own_env | {"RAY_ADDRESS": self.address}

    @property
    def job_env(self) -> dict[str, str]:
        """What a process that submits jobs needs to know."""
        return self._own_env | {"RAY_API_SERVER_ADDRESS": self.dashboard}

    def add_node(self) -> Any:
        """One more machine."""
        with self._environment():
            self._num_made += 1
            node = self.cluster.add_node(
                num_cpus=CPUS_OF_A_NODE,
                node_ip_address="127.0.0.1",
                include_log_monitor=True,
                # Machines share no folder: of two in one, each would unpack a job's code anew
                # under the other's feet.
                temp_dir=str(self.folder / f"node{self._num_made}"),
            )
        self.nodes.append(node)
        return node

    def node_of(self, worker: psutil.Process) -> Any:
        """The node that a worker's process runs on."""
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in self.nodes}
        return raylets[worker.ppid()]

    def kill_node(self, node: Any) -> None:
        """SIGKILL to a raylet, and so to all that runs under it; its machine does not come back."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def restart_gcs(self) -> None:
        """SIGKILL to the global control service; after a while it is started as it was."""
        command, env = self._gcs.cmdline(), self._gcs.environ()
        self._gcs.kill()
        time.sleep(GCS_AWAY_S)
        self._gcs = psutil.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def workers(self, kind: str) -> list[psutil.Process]:
        """Processes of workers whose names begin with ``kind``, such as ``ray::MapWorker``."""
        found = []
        for process in processes_of(self.folder):
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(kind):
                    found.append(process)
        return found

    def end(self) -> None:
        """Kill all of it."""
        end_processes_of(self.folder)


@contextlib.contextmanager
def raylets(
    folder: Path, *, num_nodes: int, env: Mapping[str, str] | None = None
) -> Iterator[Raylets]:
    """A cluster with its files in ``folder``, whose processes all end with the block."""
    made = Raylets(folder, env or {})
    try:
        for _ in range(num_nodes):
            made.add_node()
        yield made
    finally:
        made.end()
