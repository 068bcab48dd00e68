"""Run a pipeline: every step as a job of its own on a cluster, or here, one after the other."""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline import artifacts, storage
from pipeline.claim import claimed
from pipeline.cli import run_job
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph.arguments import arguments_of
from pipeline.graph.cluster_jobs import ClusterJobs, Place
from pipeline.graph.schedule import Schedule
from pipeline.graph.steps import Step, chosen_steps, steps_of
from pipeline.graph.table import shown
from pipeline.layout import layout, with_absolute_paths
from pipeline.tables import text_table

FOLDER = "pipeline"
"""Under ``run.output_dir``: who runs a pipeline there."""
_THERE = "is there already"
_POLL_S = 1.0
_FAILED_EXIT_CODE = 1
_INTERRUPTED_EXIT_CODE = 130


def run(config: RunConfig, *, file: str, overwrite: bool = False) -> int:
    """Run the pipeline of ``config``, which is ``file`` with what the command line changed.

    With ``overwrite`` every step is repeated, whatever is there. The exit code: 0 where everything
    is there, 1 where a step failed, 130 where it was interrupted. Raises ArtifactError for a second
    pipeline in the same run.
    """
    schedule = _schedule(config)
    address = _address(config)
    with claimed(storage.join(layout(config).root, FOLDER)):
        if not address:
            return _run_here(schedule, file, overwrite)
        jobs = ClusterJobs(_client(address), place_of(file), overwrite=overwrite)
        return run_on(jobs, schedule)


def describe(config: RunConfig, *, file: str) -> str:
    """The steps, what each waits for, and its command line, for ``--dry-run``."""
    rows = [
        (
            step.name,
            ", ".join(step.after) or "-",
            " ".join([f"jobs/{step.stage}.py", *arguments_of(step.stage, file, step.config)]),
        )
        for step in _schedule(config).with_status("waiting")
    ]
    where = _address(config) or "no cluster: one after the other, here"
    return f"{text_table(('job', 'after', 'command'), rows)}\npipeline: {len(rows)} jobs; {where}"


def run_on(jobs: ClusterJobs, schedule: Schedule) -> int:
    """Run the steps as jobs of a cluster, side by side where they can."""
    try:
        with shown(schedule, jobs.last_line) as changed:
            while not schedule.is_over:
                for step in schedule.ready():
                    _start(step, schedule, jobs)
                changed()
                time.sleep(_POLL_S)
                for step in schedule.with_status("running"):
                    status = jobs.status(step)
                    if status != "running":
                        schedule.mark(step.name, status)
                changed()
    except KeyboardInterrupt:
        _interrupted(schedule, jobs)
        return _INTERRUPTED_EXIT_CODE
    return _finish(schedule, jobs.last_lines)


def is_there(step: Step) -> bool:
    """Whether what a step makes is there; False also where that cannot be seen from here."""
    module = importlib.import_module(f"pipeline.{step.stage}")
    if not hasattr(module, "outputs"):
        return False  # the report: it depends on whatever there is
    try:
        return artifacts.are_there(module.outputs(with_absolute_paths(step.config)))
    except (PipelineError, OSError):
        return False


def _schedule(config: RunConfig) -> Schedule:
    section = config.pipeline
    steps = chosen_steps(steps_of(config), section.only)
    return Schedule.of(steps, max_parallel=section.max_parallel)


def _start(step: Step, schedule: Schedule, jobs: ClusterJobs) -> None:
    if not jobs.overwrite and is_there(step):
        schedule.mark(step.name, "skipped", _THERE)
        return
    try:
        schedule.mark(step.name, "running", jobs.start(step))
    except (RuntimeError, OSError, ValueError) as error:
        schedule.mark(step.name, "failed", f"could not be submitted: {error}")


def _run_here(schedule: Schedule, file: str, overwrite: bool) -> int:
    """Every step in this process, in turn, each with a Ray of its own."""
    extra = ["--overwrite"] if overwrite else []
    while schedule.ready():
        step = schedule.ready()[0]
        if not overwrite and is_there(step):
            schedule.mark(step.name, "skipped", _THERE)
            continue
        schedule.mark(step.name, "running")
        print(f"== {step.name}", flush=True)
        try:
            code = run_job(step.stage, [*arguments_of(step.stage, file, step.config), *extra])
        except KeyboardInterrupt:
            schedule.mark(step.name, "stopped")
            _finish(schedule, lambda step: [])
            return _INTERRUPTED_EXIT_CODE
        schedule.mark(step.name, "failed" if code else "finished")
    return _finish(schedule, lambda step: [])


def _interrupted(schedule: Schedule, jobs: ClusterJobs) -> None:
    """Ask what becomes of the jobs that run; without an answer they go on, and are named."""
    running = schedule.with_status("running")
    if not running:
        return
    names = ", ".join(step.name for step in running)
    if _is_wanted(f"\nStop {names} on the cluster as well? [y/N] "):
        for step in running:
            jobs.stop(step)
            schedule.mark(step.name, "stopped")
        print(f"pipeline: stopped {names}; started again, each goes on where it was")
        return
    print(f"pipeline: {names} go on on the cluster. Start this again to follow them, or stop them:")
    for step in running:
        print(f"  {jobs.how_to_stop(step)}")


def _is_wanted(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    try:
        return input(question).strip().lower() in ("y", "yes")
    except (EOFError, KeyboardInterrupt):
        return False


def _finish(schedule: Schedule, last_lines: Callable[[Step], list[str]]) -> int:
    for step in schedule.with_status("failed"):
        lines = last_lines(step)
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


def _address(config: RunConfig) -> str:
    found = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    return config.pipeline.address or next(filter(None, map(os.environ.get, found)), "")


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise PipelineError(
            f"pipeline.address: no job server answers at {address} ({error}); give the address of "
            f"the cluster's dashboard, such as http://127.0.0.1:8265"
        ) from error


def place_of(file: str) -> Place:
    """Where jobs find ``file`` and the code: in a copy of the working folder, which has both.

    Within a job that runs in no such copy all nodes have the code where this one has it.
    """
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if job and not json.loads(job).get("runtime_env", {}).get("working_dir"):
        scripts = Path(__file__).resolve().parents[2] / "jobs"
        return Place(os.path.abspath(file), str(scripts))
    try:
        inside = str(Path(file).resolve().relative_to(Path.cwd()))
        return Place(inside, working_dir=os.getcwd())
    except ValueError as error:
        raise ConfigError(
            f"--config: {file} lies outside the working folder {Path.cwd()}, which is what the "
            f"jobs get; copy it there"
        ) from error
