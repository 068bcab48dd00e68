"""The search: Ray Tune with Optuna's proposals and ASHA, for each arm its own."""

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import ray
import ray.tune
from ray.exceptions import RayError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from pipeline import storage
from pipeline.config import RunConfig, TuneSection
from pipeline.errors import ArtifactError, ConfigError, PipelineError
from pipeline.progress import Progress
from pipeline.search_space import Arm, Parameter, combinations, default_point
from pipeline.train.held_out import NELBO
from pipeline.tune.arms import ARM, FAILED, ArmScheduler, ArmSearcher
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


def run_arms(
    searches: Sequence[Search], num_at_once: int, *, trial: Callable[..., None] = run_trial
) -> list[TrialRecord]:
    """Run all arms, ``num_at_once`` trials at a time; their records, arm by arm and by number.

    Needs a Ray that is started. ``trial`` is called with the parameters and the search of its arm.
    """
    config, folder = searches[0].config, searches[0].folder
    before = read_records(folder)
    plans = {s.arm.name: _plan(s, [r for r in before if r.arm == s.arm.name]) for s in searches}
    num_trials = sum(num for _, num in plans.values())
    if num_trials == len(before) and all(record.is_over for record in before):
        return _in_order(before, searches)
    state = storage.join(folder, _RAY)
    storage.remove(state)
    proposals = {
        s.arm.name: (_proposals(config.tune, s.arm, plans[s.arm.name][0]), plans[s.arm.name][1])
        for s in searches
    }
    by_name = {search.arm.name: search for search in searches}
    with Progress("tune", "trials", num_trials) as progress:
        recorder = Recorder(folder, before, progress)
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(
                functools.partial(_run_or_replay, searches=by_name, trial=trial),
                {"CPU": TRIAL_CPUS},
            ),
            tune_config=ray.tune.TuneConfig(
                search_alg=ArmSearcher(proposals, metric=NELBO, mode="min"),
                scheduler=ArmScheduler({name: _scheduler(config.tune) for name in by_name}),
                metric=NELBO,
                mode="min",
                num_samples=num_trials,
                max_concurrent_trials=num_at_once,
                time_budget_s=config.tune.time_budget_s or None,
                trial_name_creator=lambda trial: trial_name(*_arm_and_params(trial.config)),
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            # Not reuse_actors: a trial that is stopped ends with its process, and its training too.
            run_config=ray.tune.RunConfig(
                name=config.tune.name,
                storage_path=state,
                callbacks=[recorder],
                # Of processes and machines that are lost; what a trial raises is no reason to.
                failure_config=ray.tune.FailureConfig(max_failures=config.train.max_failures),
                verbose=0,
            ),
        )
        # Ray would take Ctrl-C for a wish to end early, and the search for finished.
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
        tuner.fit()
        recorder.end()
    storage.remove(state)
    return _in_order(list(recorder.by_name.values()), searches)


def _plan(search: Search, before: Sequence[TrialRecord]) -> tuple[list[dict[str, Any]], int]:
    """What an arm proposes first, and its number of trials in this run.

    What it proposed before comes again, once each; of those that are new there are as many as its
    budget has left.
    """
    tune, known = search.config.tune, [record.params for record in before]
    points = known + [point for point in _first_points(search) if point not in known]
    if not search.arm.parameters:
        return points, 1
    if tune.search == "grid":
        return points, len(points)
    num_left = tune.num_trials - sum(record.num_proposed for record in before)
    return points, len(known) + max(0, num_left)


def _in_order(records: Sequence[TrialRecord], searches: Sequence[Search]) -> list[TrialRecord]:
    places = {search.arm.name: place for place, search in enumerate(searches)}
    return sorted(records, key=lambda record: (places[record.arm], record.number))


def _arm_and_params(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The arm and the parameters out of what Ray Tune calls the configuration of a trial."""
    return config[ARM], {key: value for key, value in config.items() if key != ARM}


def _run_or_replay(
    config: dict[str, Any], *, searches: Mapping[str, Search], trial: Callable[..., None]
) -> None:
    """What Ray Tune calls: ``trial``, unless its record says that it is over."""
    arm, params = _arm_and_params(config)
    search = searches[arm]
    record = read_record(search.folder, trial_name(arm, params))
    if record is None or not record.is_over:
        try:
            trial(params, search=search)
        except Exception as error:
            if _may_pass(error):
                raise
            if not isinstance(error, PipelineError):
                logger.exception("trial=%s", trial_name(arm, params))
            _report_failure(error)
        return
    for report in record.reports:
        ray.tune.report(report)
    if record.status == "failed":
        _report_failure(PipelineError(record.reason))


def _may_pass(error: BaseException) -> bool:
    """Whether an actor or machine that was lost, or storage, is behind it: another try may do."""
    cause = error.__cause__
    is_storage = isinstance(error, ArtifactError) and isinstance(cause, OSError)
    return isinstance(error, RayError) or is_storage or (cause is not None and _may_pass(cause))


def _report_failure(error: Exception) -> None:
    kind = "" if isinstance(error, PipelineError) else f"{type(error).__name__}: "
    nothing = dict.fromkeys(("step", PERCENT, NELBO, "seconds"), math.nan)
    ray.tune.report(nothing | {FAILED: " ".join(f"{kind}{error}".split())})


def concurrent_trials(
    nodes: Sequence[Mapping[str, float]], parts: Sequence[Mapping[str, float]]
) -> int:
    """How many trials the ``nodes`` (their resources) hold at once without waiting for each other.

    A trial is a process of ``TRIAL_CPUS`` and its ``parts``: workers and, with refreshed entropies,
    reference actors, each of which lies on one node. They are placed as they come, the largest
    first. 0: not one trial fits.
    """
    free = [dict(node) for node in nodes]
    ordered = sorted(parts, key=lambda part: (-part.get("GPU", 0.0), -part.get("CPU", 0.0)))
    count = 0
    while all(_place(free, part) for part in [*ordered, {"CPU": TRIAL_CPUS}]):
        count += 1
    return count


def _place(free: Sequence[dict[str, float]], part: Mapping[str, float]) -> bool:
    """Take ``part`` from the first node that has it."""
    for node in free:
        if all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in part.items()):
            for name, amount in part.items():
                node[name] = node.get(name, 0.0) - amount
            return True
    return False


def _first_points(search: Search) -> list[dict[str, Any]]:
    """All of a grid, else the configuration as it stands, so that no search ends with less."""
    if search.config.tune.search == "grid":
        return list(combinations(search.arm))
    default = default_point(search.config, search.arm)
    return [] if default is None else [default]


def _proposals(tune: TuneSection, arm: Arm, points: list[dict[str, Any]]) -> Any:
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
    if tune.scheduler == "none" or tune.grace == 1:
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

    def __init__(self, folder: str, before: Sequence[TrialRecord], progress: Progress) -> None:
        """``before`` are the records of an earlier run, which stay as they are once over."""
        self.folder, self.progress = folder, progress
        self.by_name = {record.trial: record for record in before}
        self.replayed = {record.trial for record in before if record.is_over}
        self.started: set[str] = set()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial was scheduled."""
        arm, params = _arm_and_params(trial.config)
        name = trial_name(arm, params)
        if name not in self.by_name:
            number = sum(record.arm == arm for record in self.by_name.values())
            self.by_name[name] = TrialRecord(arm, number, params, begun=time.time())
        elif name in self.started:
            self.by_name[name].num_proposed += 1
        elif name not in self.replayed:
            record = self.by_name[name]
            record.begun, record.seconds_before = time.time(), record.seconds
        self.started.add(name)
        if name not in self.replayed:
            shown = " ".join(f"{key}={value}" for key, value in params.items())
            logger.info("trial=%s scheduled %s", name, shown)
            write_record(self.folder, self.by_name[name])

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial was measured."""
        record = self._open(trial)
        if record is not None and not record.is_over and FAILED not in result:
            names = ("step", PERCENT, NELBO, "seconds")
            record.add({name: float(result[name]) for name in names})
            if "training_began" in result:
                seconds = result["training_began"] - record.begun
                record.seconds_to_start = None if record.seconds_before else max(0.0, seconds)
            write_record(self.folder, record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has ended, by itself or because the scheduler stopped it."""
        record = self._open(trial)
        if record is None or record.is_over:  # known before, or proposed a second time
            self.progress.add(1)
            return
        if FAILED in trial.last_result:
            record.status, record.reason = "failed", trial.last_result[FAILED]
            self._ended(record)
            return
        is_finished = bool(record.reports) and record.reports[-1][PERCENT] >= 100.0
        record.status = "finished" if is_finished else "stopped"
        if not is_finished:
            record.reason = f"among the worse at {record.reports[-1][PERCENT]:.0f} % of its steps"
        self._ended(record)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process is lost, and it is tried again."""
        name = trial_name(*_arm_and_params(trial.config))
        logger.warning("trial=%s lost, is tried again: %s", name, _reason(trial))
        self.started.discard(name)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process was lost too often."""
        record = self._open(trial)
        if record is None or record.is_over:
            self.progress.add(1)
            return
        record.status, record.reason = "failed", _reason(trial)
        self._ended(record)

    def end(self) -> None:
        """The search is over; what still ran was stopped by the time budget."""
        for record in self.by_name.values():
            if not record.is_over:
                record.status, record.reason = "stopped", "the time budget was over"
                self._ended(record)

    def _open(self, trial: Any) -> TrialRecord | None:
        """The record of ``trial``; None of one that only replays."""
        name = trial_name(*_arm_and_params(trial.config))
        return None if name in self.replayed else self.by_name[name]

    def _ended(self, record: TrialRecord) -> None:
        write_record(self.folder, record)
        own = [r for r in self.by_name.values() if r.arm == record.arm]
        measured = [r.nelbo for r in own if r.nelbo is not None]
        best = f"{min(measured):.4f}" if measured else "-"
        self.progress.note = f"best={best}"
        self.progress.add(1)
        logger.info(
            "trial=%s %s %s=%s best=%s %s",
            *(record.trial, record.status, NELBO, record.nelbo, best, record.reason),
        )


def _reason(trial: Any) -> str:
    """Why the process of a trial is gone."""
    file = trial.error_file  # beside the driver; on storage it is not there yet
    text = Path(file).read_text() if file and Path(file).exists() else "for an unknown reason"
    return " ".join(text.strip().rpartition("\n")[2].split())


def require_measures(
    config: RunConfig, arm: str, records: Sequence[TrialRecord], seconds: float
) -> None:
    """Raise ConfigError where no trial of ``arm`` reported, or none ended within the budget."""
    if any(record.status == "finished" for record in records):
        return
    reasons = [r.reason for r in records if r.status == "failed"]
    budget = config.tune.time_budget_s
    if budget and (len(reasons) < len(records) or not records):
        shares = [r.reports[-1][PERCENT] for r in records if r.reports]
        furthest = f"the furthest did {max(shares):.0f} %" if shares else "none was measured"
        raise ConfigError(
            f"tune.time_budget_s: {budget:g} s were too few for one trial of arm {arm} ({furthest} "
            f"of its steps in {seconds:.0f} s); raise it, or train less in each"
        )
    raise ConfigError(
        f"tune: no trial of arm {arm} reported {NELBO}; of {len(records)} trials {len(reasons)} "
        f"failed, the first with: {reasons[0] if reasons else '-'}"
    )
