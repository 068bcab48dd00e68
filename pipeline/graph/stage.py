"""Run a pipeline: every step as a job of its own on a cluster, or here, one after the other."""

import importlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from pipeline import artifacts, storage
from pipeline.claim import claimed
from pipeline.cli import INTERRUPTED_EXIT_CODE, parse_arguments, run_job
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.graph.arguments import arguments_of
from pipeline.graph.cluster_jobs import ClusterJobs, environment
from pipeline.graph.interrupts import interrupted, name_running, signals_raised
from pipeline.graph.schedule import UNDER_WAY, Schedule, Status
from pipeline.graph.server import address_of, connect, place_of
from pipeline.graph.steps import Step, chosen_steps, steps_of
from pipeline.graph.table import shown
from pipeline.layout import layout, with_absolute_paths
from pipeline.tables import text_table
from weft.models import EMBEDDED

logger = logging.getLogger(__name__)

FOLDER = "pipeline"
"""Under ``run.output_dir``: who runs a pipeline there."""
_THERE = "is there already"
_POLL_S = 1.0
_FAILED_EXIT_CODE = 1
_STATUS_OF: dict[int, Status] = {0: "finished", INTERRUPTED_EXIT_CODE: "stopped"}
"""By the exit code of a step that runs in this process."""


def run(config: RunConfig, *, file: str, overwrite: bool = False) -> int:
    """Run the pipeline of ``config``, which is ``file`` with what the command line changed.

    With ``overwrite`` every step is repeated, whatever is there. The exit code: 0 where everything
    is there, 1 where a step failed, 130 where it was interrupted. Raises ArtifactError for a second
    pipeline in the same run.
    """
    schedule = _schedule(config)
    address = address_of(config)
    with claimed(storage.join(layout(config).root, FOLDER)):
        if not address:
            return _run_here(schedule, file, overwrite)
        jobs = ClusterJobs(connect(address), place_of(file), overwrite=overwrite)
        with signals_raised():
            return run_on(jobs, schedule)


def describe(config: RunConfig, *, file: str) -> str:
    """The steps, what each waits for, and its command line, for ``--dry-run``."""
    rows = [
        (
            step.name,
            ", ".join(step.after) or "-",
            " ".join([f"jobs/{step.stage}.py", *arguments_of(step, file)]),
        )
        for step in _schedule(config).with_status("waiting")
    ]
    where = address_of(config) or "no cluster: one after the other, here"
    return f"pipeline: {len(rows)} jobs; {where}\n{text_table(('job', 'after', 'command'), rows)}"


def run_on(jobs: ClusterJobs, schedule: Schedule) -> int:
    """Run the steps as jobs of a cluster, side by side where they can.

    Whatever ends this, jobs that go on are named.
    """
    for step in schedule.with_status("waiting"):
        jobs.request(step)  # what is wrong with any is said before the first one starts
    try:
        with shown(schedule, jobs.last_line) as changed:
            while not schedule.is_over:
                for step in schedule.ready():
                    _start(step, schedule, jobs)
                changed()
                time.sleep(_POLL_S)
                for step in schedule.with_status(*UNDER_WAY):
                    schedule.mark(step.name, jobs.status(step))
                changed()
    except KeyboardInterrupt:
        interrupted(schedule, jobs)
        return INTERRUPTED_EXIT_CODE
    except BaseException:
        name_running(schedule, jobs)
        raise
    return _finish(schedule, jobs.last_lines)


def _can_look(step: Step) -> bool:
    """Whether this process can see what the jobs of a cluster see, without fetching weights.

    A job of the cluster itself can. From outside an object store is the same, but a local path may
    be another machine's; and an artifact is compared with the weights that it came from, which
    would have to be downloaded. Where this says no, the stage itself says that all is there.
    """
    if storage.in_job():
        return True
    config, path = step.config, step.config.model.path
    is_at_hand = path in EMBEDDED or Path(path).expanduser().is_dir()
    reads_no_others = step.stage in ("reference", "train", "tune") and is_at_hand
    reads_no_others &= not config.reference.checkpoint
    return not storage.is_local(config.run.output_dir) and (
        step.stage == "prepare" or reads_no_others
    )


def is_there(step: Step, file: str) -> bool:
    """Whether what a step makes is there; False also where that cannot be seen from here."""
    module = importlib.import_module(f"pipeline.{step.stage}")
    if not hasattr(module, "outputs"):
        return False  # the report: it depends on whatever there is
    try:
        config = step.config
        if step.best:
            config = parse_arguments(step.stage, arguments_of(step, file)).run_config
        return artifacts.are_there(module.outputs(with_absolute_paths(config)))
    except (PipelineError, OSError):
        return False


def _schedule(config: RunConfig) -> Schedule:
    section = config.pipeline
    steps = chosen_steps(steps_of(config), section.only)
    return Schedule.of(steps, max_parallel=section.max_parallel)


def _start(step: Step, schedule: Schedule, jobs: ClusterJobs) -> None:
    if not jobs.overwrite and _can_look(step) and is_there(step, jobs.place.file):
        schedule.mark(step.name, "skipped", _THERE)
        return
    schedule.mark(step.name, "pending")
    try:
        schedule.mark(step.name, "pending", jobs.start(step))
    except (RuntimeError, OSError, ValueError) as error:
        if not jobs.is_known(step):  # else its submission came through, and its answer did not
            schedule.mark(step.name, "failed", f"could not be submitted: {error}")


def _run_here(schedule: Schedule, file: str, overwrite: bool) -> int:
    """Every step in this process, in turn, each with a Ray of its own."""
    extra = ["--overwrite"] if overwrite else []
    # What is wrong with any step is said before the first one starts.
    steps = schedule.with_status("waiting")
    arguments = {s.name: [*arguments_of(s, file), *extra] for s in steps}
    variables = {s.name: environment(s) for s in steps}
    while schedule.ready():
        step = schedule.ready()[0]
        if not overwrite and is_there(step, file):
            schedule.mark(step.name, "skipped", _THERE)
            continue
        schedule.mark(step.name, "running")
        print(f"== {step.name}", flush=True)
        status = _run_step(step, arguments[step.name], variables[step.name])
        schedule.mark(step.name, status)
        if status == "stopped":
            _finish(schedule, lambda step: [])
            return INTERRUPTED_EXIT_CODE
    return _finish(schedule, lambda step: [])


def _run_step(step: Step, arguments: list[str], variables: dict[str, str]) -> Status:
    """One step in this process; what it leaves behind in it is undone."""
    section = step.section
    if section.runtime_env or section.resources or section.num_gpus:
        logger.warning("%s: runtime_env and resources are for clusters; not used here", step.name)
    before, handler = dict(os.environ), signal.getsignal(signal.SIGINT)
    os.environ.update(variables)
    try:
        return _STATUS_OF.get(run_job(step.stage, arguments), "failed")
    except (Exception, SystemExit):
        traceback.print_exc()
        return "failed"
    finally:
        os.environ.clear()
        os.environ.update(before)
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _finish(schedule: Schedule, last_lines: Callable[[Step], list[str]]) -> int:
    for step in schedule.with_status("failed"):
        try:
            lines = last_lines(step)
        except (RuntimeError, OSError) as error:
            lines = [f"(its log cannot be read: {error})"]
        if lines:
            print(f"\n{step.name} failed. It ended with:", file=sys.stderr)
            print("\n".join(f"  {line}" for line in lines), file=sys.stderr)
    rows = [
        (name, one.status, "" if one.seconds() is None else f"{one.seconds():.0f} s", one.note)
        for name, one in schedule.progress.items()
    ]
    print(text_table(("job", "status", "time", ""), rows))
    if schedule.succeeded:
        return 0
    failed = ", ".join(step.name for step in schedule.with_status("failed", "stopped"))
    print(
        f"error: {failed} did not finish; once mended, start the pipeline again: what is there is "
        f"skipped",
        file=sys.stderr,
    )
    return _FAILED_EXIT_CODE
