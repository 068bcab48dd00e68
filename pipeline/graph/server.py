"""The job server of a cluster: where it is, and where its jobs find code and configuration."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, PipelineError
from pipeline.graph.cluster_jobs import Place

_ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")


def address_of(config: RunConfig) -> str:
    """Of the configuration, else of the environment; empty: there is no cluster."""
    return config.pipeline.address or next(filter(None, map(os.environ.get, _ADDRESSES)), "")


def connect(address: str) -> Any:
    """Ray's client of the job server there; PipelineError without one, or without its token."""
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
