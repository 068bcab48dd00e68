"""What ends a pipeline before its jobs have ended: none of them goes on without being named."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator

from pipeline.graph.cluster_jobs import ClusterJobs
from pipeline.graph.schedule import UNDER_WAY, Schedule
from pipeline.graph.steps import Step

_SIGNALLED = 128
"""Added to the number of the signal that ends a process, as shells do."""


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """A stop of this process, or a closed terminal, raises SystemExit, so that jobs are named."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(_SIGNALLED + number)

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    if threading.current_thread() is not threading.main_thread():
        before = {}
    # Not one that nohup ignores, or that a library handles outside of Python.
    before = {k: old for k, old in before.items() if old not in (signal.SIG_IGN, None)}
    for one in before:
        signal.signal(one, leave)
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def interrupted(schedule: Schedule, jobs: ClusterJobs) -> None:
    """Ask what becomes of the jobs that run; without an answer they go on, and are named."""
    running = _running(schedule, jobs)
    if not running:
        return
    names = ", ".join(step.name for step in running)
    try:
        if _is_wanted(f"\nStop {names} on the cluster as well? [y/N] "):
            for step in running:
                try:
                    jobs.stop(step)
                except (RuntimeError, OSError) as error:
                    print(f"pipeline: {step.name} could not be stopped: {error}")
                else:
                    schedule.mark(step.name, "stopped")
            print("pipeline: asked to stop; started again, each goes on where it was")
    finally:  # a second Ctrl-C as well
        name_running(schedule, jobs)


def name_running(schedule: Schedule, jobs: ClusterJobs) -> None:
    """Say which jobs go on by themselves, and how each is stopped."""
    running = _running(schedule, jobs)
    if running:
        names = ", ".join(step.name for step in running)
        print(f"pipeline: {names} go on on the cluster. Start this again to follow them, or:")
        for step in running:
            print(f"  {jobs.how_to_stop(step)}")


def _running(schedule: Schedule, jobs: ClusterJobs) -> list[Step]:
    """The steps that the cluster has a job of, or may have."""
    return [step for step in schedule.with_status(*UNDER_WAY) if step.name in jobs.ids]


def _is_wanted(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False
