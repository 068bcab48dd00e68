"""Run a pipeline: every step as a job of its own on a cluster, or here, one after the other."""

import contextlib
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import artifacts, storage
from pipeline.claim import claimed
from pipeline.cli import INTERRUPTED_EXIT_CODE, parse_arguments, run_job
from pipeline.config import RunConfig
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph.arguments import arguments_of
from pipeline.graph.cluster_jobs import ClusterJobs, Place, environment
from pipeline.graph.schedule import UNDER_WAY, Schedule, Status
from pipeline.graph.steps import Step, chosen_steps, steps_of
from pipeline.graph.table import shown
from pipeline.layout import layout, with_absolute_paths
from pipeline.tables import text_table
from weft.models import EMBEDDED

logger = logging.getLogger(__name__)

FOLDER = "pipeline"
"""Under ``run.output_dir``: who runs a pipeline there."""
_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_THERE = "is there already"
_POLL_S = 1.0
_FAILED_EXIT_CODE = 1
_SIGNALLED = 128
"""Added to the number of the signal that ends a process, as shells do."""
_STATUS_OF: dict[int, Status] = {0: "finished", INTERRUPTED_EXIT_CODE: "stopped"}
"""By the exit code of a step that runs in this process."""


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
        with _signals_raised():
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
    where = _address(config) or "no cluster: one after the other, here"
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
        _interrupted(schedule, jobs)
        return INTERRUPTED_EXIT_CODE
    except BaseException:
        _name_running(schedule, jobs)
        raise
    return _finish(schedule, jobs.last_lines)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
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


def _interrupted(schedule: Schedule, jobs: ClusterJobs) -> None:
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
        _name_running(schedule, jobs)


def _name_running(schedule: Schedule, jobs: ClusterJobs) -> None:
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


def _address(config: RunConfig) -> str:
    return config.pipeline.address or next(filter(None, map(os.environ.get, _ADDRESSES)), "")


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    # Each submission would put a dozen lines into the table.
    for name in ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Ray lets these win over the address that it is given.
    hidden = {name: os.environ.pop(name) for name in _ADDRESSES if name in os.environ}
    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        raise PipelineError(
            f"pipeline.address: the job server at {address} wants its token; set "
            f"RAY_AUTH_MODE=token, and have the token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        ) from error
    except (ConnectionError, RuntimeError) as error:
        raise PipelineError(
            f"pipeline.address: no job server answers at {address} ({error}); give the address of "
            f"the cluster's dashboard, such as http://127.0.0.1:8265"
        ) from error
    finally:
        os.environ |= hidden


def place_of(file: str) -> Place:
    """Where jobs find ``file`` and the code: in a copy of the working folder, which has both.

    Within a job that runs in no such copy all nodes have the code where this one has it.
    """
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    if job and not json.loads(job).get("runtime_env", {}).get("working_dir"):
        scripts = Path(__file__).resolve().parents[2] / "jobs"
        return Place(os.path.abspath(file), str(scripts))
    if not (Path.cwd() / "jobs" / "train.py").is_file():
        raise ConfigError(
            f"the working folder {Path.cwd()} is what the jobs get, and has no jobs/; start this "
            f"from the repository's folder"
        )
    try:
        inside = str(Path(file).resolve().relative_to(Path.cwd()))
        return Place(inside, working_dir=os.getcwd())
    except ValueError as error:
        raise ConfigError(
            f"--config: {file} lies outside the working folder {Path.cwd()}, which is what the "
            f"jobs get; copy it there"
        ) from error
