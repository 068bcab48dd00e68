"""The search of one arm: Ray Tune with Optuna's proposals and ASHA."""

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
import ray.tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from pipeline import storage
from pipeline.config import RunConfig, TuneSection
from pipeline.errors import ConfigError
from pipeline.progress import Progress
from pipeline.search_space import Arm, Parameter, combinations, default_point
from pipeline.train.held_out import NELBO
from pipeline.tune.records import (
    TrialRecord,
    read_record,
    read_records,
    trial_name,
    write_record,
)
from pipeline.tune.trial import PERCENT, Search, run_trial

logger = logging.getLogger(__name__)

TRIAL_CPUS = 0.1
"""Of the process that a trial is, beside its workers."""
_RAY = "ray"
_MAX_PERCENT = 99.9
"""Above the last rung that decides: a trial that has done all of its steps is never stopped."""


def run_arm(
    search: Search, num_at_once: int, *, trial: Callable[..., None] = run_trial
) -> list[TrialRecord]:
    """Search ``search.arm`` with ``num_at_once`` trials at a time; its records, the old ones first.

    Needs a Ray that is started. ``trial`` is called with the parameters and ``search``.
    """
    tune, arm = search.config.tune, search.arm
    before = [r for r in read_records(search.folder) if r.arm == arm.name]
    known = [record.params for record in before]
    points = known + [point for point in _first_points(search) if point not in known]
    num_trials = max(len(points), 1 if tune.search == "grid" else tune.num_trials)
    if not arm.parameters:
        num_trials = 1
    if len(before) >= num_trials and all(record.is_over for record in before):
        return before
    state = storage.join(search.folder, _RAY)
    storage.remove(state)
    with Progress(f"tune {arm.name}", "trials", num_trials) as progress:
        recorder = Recorder(search, before, progress)
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                functools.partial(_run_or_replay, search=search, trial=trial), {"CPU": TRIAL_CPUS}
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=_proposals(tune, arm, points),
                scheduler=_scheduler(tune),
                metric=NELBO,
                mode="min",
                num_samples=num_trials,
                max_concurrent_trials=num_at_once,
                time_budget_s=tune.time_budget_s or None,
                trial_name_creator=lambda trial: trial_name(arm.name, trial.config),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            # Not reuse_actors: a trial that is stopped ends with its process, and its training too.
            run_config=ray.tune.RunConfig(
                name=arm.name,
                storage_path=state,
                callbacks=[recorder],
                failure_config=ray.tune.FailureConfig(max_failures=0),
                verbose=0,
            ),
        )
        tuner.fit()
    storage.remove(state)
    return recorder.records()


def _run_or_replay(params: dict[str, Any], *, search: Search, trial: Callable[..., None]) -> None:
    """What Ray Tune calls: ``trial``, unless its record says that it is over."""
    record = read_record(search.folder, trial_name(search.arm.name, params))
    if record is None or not record.is_over:
        trial(params, search=search)
        return
    for report in record.reports:
        ray.tune.report(report)
    if record.status == "failed":
        raise RuntimeError(record.reason)


def concurrent_trials(
    nodes: Sequence[Mapping[str, float]], *, workers: int, cpus: float, gpus: float, beside: float
) -> int:
    """How many trials the ``nodes`` (their resources) hold at once without waiting for each other.

    A trial is a process of ``TRIAL_CPUS``, ``workers`` of ``cpus`` and ``gpus`` each, and
    ``beside`` CPUs of a reference job; a worker lies on one node. 0: not one.
    """
    slots = 0
    for node in nodes:
        limits = [node.get("CPU", 0.0) / cpus if cpus else math.inf]
        limits += [node.get("GPU", 0.0) / gpus] if gpus else []
        slots += math.floor(min(limits) + 1e-9)
    all_cpus = sum(node.get("CPU", 0.0) for node in nodes)
    of_cpus = all_cpus / (TRIAL_CPUS + workers * cpus + beside)
    return min(slots // workers, math.floor(of_cpus + 1e-9))


def _first_points(search: Search) -> list[dict[str, Any]]:
    """All of a grid, else the configuration as it stands, so that no search ends with less."""
    if search.config.tune.search == "grid":
        return list(combinations(search.arm))
    default = default_point(search.config, search.arm)
    return [] if default is None else [default]


def _proposals(tune: TuneSection, arm: Arm, points: list[dict[str, Any]]) -> Any:
    if not arm.parameters:
        return None
    seed = tune.seed + len(points)  # what is proposed again needs no draws; those after it do
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if tune.search == "tpe":
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=max(3, tune.num_trials // 3), constant_liar=True
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return OptunaSearch(
        functools.partial(_suggest, arm=arm),
        metric=NELBO,
        mode="min",
        points_to_evaluate=points,
        sampler=sampler,
    )


def _suggest(trial: optuna.Trial, *, arm: Arm) -> None:
    """Ask ``trial`` for the parameters of ``arm``, in the form that Optuna calls define-by-run."""
    chosen: dict[str, Any] = {}
    for parameter in arm.active(chosen):
        chosen[parameter.key] = _ask(trial, parameter)


def _ask(trial: optuna.Trial, parameter: Parameter) -> Any:
    if parameter.values:
        return trial.suggest_categorical(parameter.key, list(parameter.values))
    if parameter.is_integer:
        low, high = int(parameter.low), int(parameter.high)
        return trial.suggest_int(parameter.key, low, high, log=parameter.log)
    return trial.suggest_float(parameter.key, parameter.low, parameter.high, log=parameter.log)


def _scheduler(tune: TuneSection) -> TrialScheduler:
    if tune.scheduler == "none":
        return FIFOScheduler()
    return AsyncHyperBandScheduler(
        time_attr=PERCENT,
        max_t=_MAX_PERCENT,
        grace_period=100.0 * tune.grace,
        reduction_factor=tune.reduction_factor,
        stop_last_trials=False,
    )


class Recorder(ray.tune.Callback):  # type: ignore[misc]
    """Writes the record of each trial as things happen to it."""

    def __init__(self, search: Search, before: Sequence[TrialRecord], progress: Progress) -> None:
        """``before`` are the records of an earlier run, which stay as they are once over."""
        self.search, self.progress = search, progress
        self.by_name = {record.trial: record for record in before}
        self.replayed = {record.trial for record in before if record.is_over}

    def records(self) -> list[TrialRecord]:
        """All of them, by number."""
        return sorted(self.by_name.values(), key=lambda record: record.number)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was scheduled."""
        arm, params = self.search.arm.name, dict(trial.config)
        name = trial_name(arm, params)
        if name not in self.by_name:
            self.by_name[name] = TrialRecord(arm, len(self.by_name), params, begun=time.time())
        elif name not in self.replayed:
            self.by_name[name].begun = time.time()
        if name not in self.replayed:
            shown = " ".join(f"{key}={value}" for key, value in params.items())
            logger.info("trial=%s scheduled %s", name, shown)
            write_record(self.search.folder, self.by_name[name])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was measured."""
        record = self._open(trial)
        if record is not None:
            names = ("step", PERCENT, NELBO, "seconds")
            record.add({name: float(result[name]) for name in names})
            if "training_began" in result:
                record.seconds_to_start = result["training_began"] - record.begun
            write_record(self.search.folder, record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or because the scheduler stopped it."""
        record = self._open(trial)
        if record is None:
            self.progress.add(1)
            return
        is_finished = bool(record.reports) and record.reports[-1][PERCENT] >= 100.0
        record.status = "finished" if is_finished else "stopped"
        if not is_finished:
            record.reason = (
                f"among the worse at {record.reports[-1][PERCENT]:.0f} % of its steps"
                if record.reports
                else "the time budget was over"
            )
        self._ended(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has failed."""
        record = self._open(trial)
        if record is None:
            self.progress.add(1)
            return
        record.status, record.reason = "failed", _reason(trial)
        self._ended(record)

    def _open(self, trial: Any) -> TrialRecord | None:
        """The record of ``trial``; None of one that only replays."""
        name = trial_name(self.search.arm.name, dict(trial.config))
        return None if name in self.replayed else self.by_name[name]

    def _ended(self, record: TrialRecord) -> None:
        write_record(self.search.folder, record)
        measured = [r.nelbo for r in self.by_name.values() if r.nelbo is not None]
        best = f"{min(measured):.4f}" if measured else "-"
        self.progress.note = f"best={best}"
        self.progress.add(1)
        logger.info(
            "trial=%s %s %s=%s best=%s %s",
            *(record.trial, record.status, NELBO, record.nelbo, best, record.reason),
        )


def _reason(trial: Any) -> str:
    """What was raised in the trial, without the way that it took."""
    file = trial.error_file  # beside the driver; on storage it is not there yet
    text = Path(file).read_text() if file and Path(file).exists() else "for an unknown reason"
    return " ".join(text.rpartition("RuntimeError: ")[2].split())


def require_measures(config: RunConfig, records: Sequence[TrialRecord], seconds: float) -> None:
    """Raise ConfigError where no trial reported anything, or none ended within the budget."""
    if any(record.status == "finished" for record in records):
        return
    reasons = [r.reason for r in records if r.status == "failed"]
    budget = config.tune.time_budget_s
    if budget and len(reasons) < len(records):
        shares = [r.reports[-1][PERCENT] for r in records if r.reports]
        furthest = f"the furthest did {max(shares):.0f} %" if shares else "none was measured"
        raise ConfigError(
            f"tune.time_budget_s: {budget:g} s were too few for one trial ({furthest} of its "
            f"steps in {seconds:.0f} s); raise it, or train less in each"
        )
    raise ConfigError(
        f"tune: no trial reported {NELBO}; of {len(records)} trials {len(reasons)} failed, the "
        f"first with: {reasons[0] if reasons else '-'}"
    )
