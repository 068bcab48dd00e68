"""Attaching to the Ray cluster that is there, or starting a local one for the length of a stage."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


@contextmanager
def ray_session(*, cpus: float = 1.0, gpus: float = 0.0, dashboard: bool = False) -> Iterator[None]:
    """A connection to Ray; ``cpus`` and ``gpus`` are what the stage holds at once.

    With ``RAY_ADDRESS`` set (as in a submitted job) it attaches to that cluster, else it starts a
    Ray of its own that listens on this machine only and ends with the block; ``dashboard`` adds
    its web page. A Ray that the caller has already started is used and left running.
    """
    import ray

    if ray.is_initialized():
        _check_size(cpus, gpus)
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=True, logging_level=logging.WARNING)
    else:
        _start_local(cpus, dashboard)
    try:
        _check_size(cpus, gpus)
        _quiet_ray_data()
        yield
    finally:
        ray.shutdown()


def _start_local(cpus: float, dashboard: bool) -> None:
    import ray

    # Ray makes its token with the rights of any file.
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):
        token.parent.mkdir(exist_ok=True)
        token.parent.chmod(0o700)
    ray.init(
        address="local",
        # A stage that reserves more CPUs than a small machine has would wait for ever.
        num_cpus=max(os.cpu_count() or 1, math.ceil(cpus)),
        include_dashboard=dashboard,
        dashboard_host="127.0.0.1",
        object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
        logging_level=logging.WARNING,
    )
    with suppress(OSError):  # there is none where RAY_AUTH_MODE is disabled
        token.chmod(0o600)


def _check_size(cpus: float, gpus: float) -> None:
    import ray

    there = ray.cluster_resources()
    for name, wanted in (("GPU", gpus), ("CPU", cpus)):
        if wanted > there.get(name, 0) and not os.environ.get("RAY_ADDRESS"):
            raise ConfigError(
                f"this stage wants {wanted:g} {name}s, but the local Ray sees "
                f"{there.get(name, 0):g}; lower the number of actors or workers, or set "
                f"RAY_ADDRESS to a cluster"
            )
    if cpus > there.get("CPU", 0) or gpus > there.get("GPU", 0):
        logger.warning(
            "waiting_for_nodes wanted_cpus=%g wanted_gpus=%g cluster=%s", cpus, gpus, there
        )


def _quiet_ray_data() -> None:
    import sys

    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = sys.stderr.isatty()
    context.print_on_execution_start = False
