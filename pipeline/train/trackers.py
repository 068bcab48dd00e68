"""Where the metrics of a training go while it runs; nothing of it can stop the training.

What a tracker is told is the same whether a training was interrupted or not: the steps after the
state that it continues from are told once more.
"""

import importlib.util
import logging
import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from pipeline import storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.errors import ConfigError

logger = logging.getLogger(__name__)

_GAUGES = ("loss", "nll", "tokens_per_second", "held_out_nelbo")


class Tracker(Protocol):
    """Takes the metrics of each logged step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """The values of one optimizer step."""

    def close(self) -> None:
        """Nothing more comes."""


def check_trackers(config: RunConfig) -> None:
    """Raise ConfigError where a package is missing that ``[tracking]`` needs."""
    wanted = {"mlflow": config.tracking.mlflow_uri, "wandb": config.tracking.wandb_project}
    for package, setting in wanted.items():
        if setting and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"tracking: {setting} wants the package {package}, which is not installed; "
                f"pip install 'weft[{package}]', on the workers too"
            )


def open_trackers(config: RunConfig, folder: str, wanted: Manifest, *, step: int) -> list[Tracker]:
    """The trackers of ``config``; ``step`` is the last one that is already known.

    One that cannot be opened is named in the log and left out.
    """
    section, name = config.tracking, config.train.name
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: _TensorBoard(storage.join(folder, "tensorboard"), step)
    }
    if section.prometheus:
        makers["prometheus"] = lambda: _Gauges(config.run.name, name)
    if section.mlflow_uri:
        makers["mlflow"] = lambda: _Mlflow(config, wanted)
    if section.wandb_project:
        makers["wandb"] = lambda: _Wandb(config, wanted)
    found: list[Tracker] = []
    for tracker, make in makers.items():
        try:
            found.append(_Forgiving(tracker, make()))
        except Exception as error:  # whatever a service says: the training is what matters
            logger.warning("tracking: %s is left out: %s", tracker, error)
    return found


class _Forgiving:
    """A tracker that is told nothing more once it has failed: training must not wait for it."""

    def __init__(self, name: str, inner: Tracker) -> None:
        self._name, self._inner, self._has_failed = name, inner, False

    def log(self, step: int, values: dict[str, float]) -> None:
        self._try(lambda: self._inner.log(step, values))

    def close(self) -> None:
        self._try(self._inner.close)

    def _try(self, work: Callable[[], None]) -> None:
        if self._has_failed:
            return
        try:
            work()
        except Exception as error:
            self._has_failed = True
            logger.warning(
                "tracking: %s does not take metrics, and gets no more: %s", self._name, error
            )


class _TensorBoard:
    """Event files in the checkpoint's folder; what an earlier try wrote beyond its state goes."""

    def __init__(self, folder: str, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(folder, purge_step=step + 1)

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class _Gauges:
    """Metrics of Ray, for its dashboard and Prometheus: ``ray_weft_train_loss`` and others."""

    def __init__(self, run: str, checkpoint: str) -> None:
        from ray.util.metrics import Gauge

        self._tags = {"run": run, "checkpoint": checkpoint}
        self._gauges = {
            name: Gauge(f"weft_train_{name}", f"{name} of the training", ("run", "checkpoint"))
            for name in _GAUGES
        }

    def log(self, step: int, values: dict[str, float]) -> None:
        for name in self._gauges.keys() & values.keys():
            self._gauges[name].set(values[name], tags=self._tags)

    def close(self) -> None:
        pass


class _Mlflow:
    """A run of MLflow, the same one when the training is continued."""

    def __init__(self, config: RunConfig, wanted: Manifest) -> None:
        from mlflow import MlflowClient

        # Its own would let a training wait for minutes; what the user set wins.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        section = config.tracking
        self._client: Any = MlflowClient(tracking_uri=section.mlflow_uri)
        found = self._client.get_experiment_by_name(section.mlflow_experiment)
        experiment = (
            found.experiment_id
            if found is not None
            else self._client.create_experiment(section.mlflow_experiment)
        )
        tags = {"weft.recipe": wanted.recipe, "weft.run": config.run.name}
        runs = self._client.search_runs(
            [experiment], f"tags.`weft.recipe` = '{wanted.recipe}'", max_results=1
        )
        if runs:
            self._run = runs[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        run = self._client.create_run(experiment, run_name=config.train.name, tags=tags)
        self._run = run.info.run_id
        for key, value in _flat(wanted.config).items():
            self._client.log_param(self._run, key, value)

    def log(self, step: int, values: dict[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


class _Wandb:
    """A run of Weights & Biases, the same one when the training is continued."""

    def __init__(self, config: RunConfig, wanted: Manifest) -> None:
        import wandb

        section = config.tracking
        self._run: Any = wandb.init(
            project=section.wandb_project,
            entity=section.wandb_entity or None,
            name=config.train.name,
            group=config.run.name,
            id=wanted.recipe,
            resume="allow",
            config=wanted.config,
        )

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found
