"""Steps as jobs of a Ray cluster, through its Job Submission API."""

import asyncio
import dataclasses
import logging
import os
import shlex
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from pipeline import artifacts, storage
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph.arguments import arguments_of
from pipeline.graph.schedule import UNDER_WAY, Status
from pipeline.graph.steps import Step, toml_lines

logger = logging.getLogger(__name__)

_KEPT_LINES = 20
_SUBMISSION_S, _RETRY_S = 60.0, 2.0
"""For so long, and so often, a submission that is refused is tried again."""
_OWN_CPUS = {"merge": 1.0}
"""CPUs of a job's own process where that holds a model, which a head has no room for."""
_PATIENCE_S = 120.0
"""For so long the job server may be out of reach."""
_STATUS: dict[str, Status] = {
    "PENDING": "pending",
    "RUNNING": "running",
    "SUCCEEDED": "finished",
    "FAILED": "failed",
    "STOPPED": "stopped",
}


@dataclass(frozen=True)
class Place:
    """Where jobs find the code and the configuration."""

    file: str
    """The configuration, as a job names it."""
    scripts: str = "jobs"
    """Folder of the entry points."""
    working_dir: str | None = None
    """What is uploaded for each job, which then runs in a copy of it; None: all nodes have it."""


class ClusterJobs:
    """The jobs of one pipeline on one cluster."""

    def __init__(self, client: Any, place: Place, *, overwrite: bool = False) -> None:
        """``client`` is Ray's JobSubmissionClient."""
        self.client, self.place, self.overwrite = client, place, overwrite
        self.ids: dict[str, str] = {}
        """Submission id of each step that was started, or found running."""
        self._tails: dict[str, _Tail] = {}
        self._silent_since: float | None = None

    def request(self, step: Step) -> dict[str, Any]:
        """What is asked of the job server for a step; ConfigError for what it cannot be."""
        section, where = step.section, f"pipeline.jobs, {step.name}"
        root = step.config.run.output_dir
        is_clear = not storage.is_local(root) or Path(root).is_absolute() or storage.in_job()
        if step.best and not is_clear:
            raise ConfigError(
                f"{where}: best_of: wanted a run.output_dir that means the same on the cluster, an "
                f"absolute path or an address, got {root}"
            )
        arguments = arguments_of(step, self.place.file)
        if self.overwrite:
            arguments.append("--overwrite")
        runtime_env = toml_lines(section.runtime_env, where=f"{where}: runtime_env")
        if self.place.working_dir:
            runtime_env = {"working_dir": self.place.working_dir} | runtime_env
        if section.env:
            runtime_env["env_vars"] = environment(step)
        own_cpus = None if section.resources else _OWN_CPUS.get(step.stage)
        return {
            "entrypoint": shlex.join(
                ["python", f"{self.place.scripts}/{step.stage}.py", *arguments]
            ),
            "runtime_env": runtime_env,
            "metadata": {"pipeline_step": step.name},
            "entrypoint_num_cpus": section.num_cpus or own_cpus,
            "entrypoint_num_gpus": section.num_gpus or None,
            "entrypoint_memory": int(section.memory_gib * 2**30) or None,
            "entrypoint_resources": toml_lines(section.resources, where=f"{where}: resources")
            or None,
        }

    def start(self, step: Step) -> str:
        """Submit a step, or find it running from before; the id of its job.

        A job server that is out of reach, or has no agent yet that could take a job, is asked again
        for a while; what came through before is found then.
        """
        name: str = retry(
            retry=retry_if_exception_type((RuntimeError, OSError)),
            wait=wait_fixed(_RETRY_S),
            stop=stop_after_delay(_SUBMISSION_S),
            reraise=True,
        )(self._start)(step, self.request(step))
        self._tails[step.name] = _Tail(self.client, name)
        return name

    def _start(self, step: Step, request: dict[str, Any]) -> str:
        # The same step with the same settings, whatever the file is called.
        settings = dataclasses.asdict(step.config)
        del settings["pipeline"]
        identity = [step.stage, self.overwrite, settings, *filter(None, [step.best])]
        stem = f"{step.name}-{artifacts.fingerprint(identity)[:8]}"
        known = {
            job.submission_id: str(job.status)
            for job in self.client.list_jobs()
            if (job.submission_id or "").rpartition("-")[0] == stem
        }
        there = [name for name, status in known.items() if _STATUS[status] in UNDER_WAY]
        if self.ids.get(step.name) in known:  # of an attempt whose answer was lost
            there = [self.ids[step.name]]
        name = str(there[0]) if there else f"{stem}-{len(known) + 1}"
        self.ids[step.name] = name
        if not there:
            self.client.submit_job(submission_id=name, **request)
        return name

    def is_known(self, step: Step) -> bool:
        """Whether the job server may have the job of a step whose submission gave an error.

        Only the server's own list rules it out; see ``status`` for one that goes on to be silent.
        """
        name = self.ids.get(step.name)
        try:
            is_known = name in [job.submission_id for job in self.client.list_jobs()]
        except (RuntimeError, OSError):
            return name is not None
        if not is_known:
            self.ids.pop(step.name, None)
        return is_known

    def status(self, step: Step) -> Status:
        """How a step stands; failed where its submission turns out never to have arrived.

        Raises PipelineError after minutes without an answer.
        """
        try:
            status = _STATUS[str(self.client.get_job_status(self.ids[step.name]))]
        except (RuntimeError, OSError) as error:
            if not self.is_known(step):
                logger.warning("%s: the job server never got it", step.name)
                return "failed"
            self._silent_since = self._silent_since or time.monotonic()
            if time.monotonic() - self._silent_since > _PATIENCE_S:
                raise PipelineError(
                    f"the job server does not answer ({error}); the jobs may go on: "
                    f"{', '.join(self.ids.values())}. Start this again to follow them"
                ) from error
            return "running"
        self._silent_since = None
        return status

    def last_line(self, step: Step) -> str:
        """What a running step printed last."""
        lines = self._tails[step.name].lines if step.name in self._tails else ()
        return lines[-1] if lines else ""

    def last_lines(self, step: Step) -> list[str]:
        """The end of the log of a step that has ended; nothing where it never began."""
        if step.name not in self.ids:
            return []
        name = self.ids[step.name]
        lines = str(self.client.get_job_logs(name)).rstrip().splitlines()[-_KEPT_LINES:]
        # What Ray itself has to say of it, such as that it waited too long for a node; it quotes
        # the log.
        message = str(self.client.get_job_info(name).message or "")
        return [*lines, *(line for line in message.splitlines() if line not in lines)]

    def stop(self, step: Step) -> None:
        """Ask a job to stop."""
        self.client.stop_job(self.ids[step.name])

    def how_to_stop(self, step: Step) -> str:
        """A command that stops a job that goes on by itself, whatever the shell's variables say."""
        # An address as an option would lose against such a variable.
        values = {"RAY_API_SERVER_ADDRESS": self.client.get_address()}
        if "RAY_AUTH_MODE" in os.environ:
            values["RAY_AUTH_MODE"] = os.environ["RAY_AUTH_MODE"]
        words = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
        return " ".join([*words, "ray job stop", self.ids[step.name]])


def environment(step: Step) -> dict[str, str]:
    """The environment variables of a step's section."""
    found = toml_lines(step.section.env, where=f"pipeline.jobs, {step.name}: env")
    return {key: str(value) for key, value in found.items()}


class _Tail:
    """Follows the log of a job in a thread that ends with it."""

    def __init__(self, client: Any, name: str) -> None:
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._client, self._name = client, name
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        # What it shows is no more than a sign of life: the log itself is asked for at the end.
        try:
            asyncio.run(self._read())
        except Exception as error:
            self.lines.append(f"(the log cannot be followed: {error})")

    async def _read(self) -> None:
        async for text in self._client.tail_job_logs(self._name):
            self.lines.extend(line for line in text.splitlines() if line.strip())
