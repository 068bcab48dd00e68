"""The report's results: the table of all evaluations, and accuracies as figures."""

from collections.abc import Iterator
from typing import Any

from pipeline import artifacts
from pipeline.comparisons import decoder_settings
from pipeline.report import figures
from pipeline.report.data import Evaluation, RunData
from pipeline.tables import METRIC_COLUMNS, metric_rows
from weft.method_config import RATED

# Measures in the table of all tasks; a task's others have a table of their own.
_STANDARD_METRICS = frozenset(
    (
        "num_items",
        "accuracy",
        "interval",
        "headline",
        "d1_accuracy",
        "nfe",
        "seconds",
        "whole_passes",
        "latency",
        "num_tokens",
        "tokens_per_second",
        "num_timed_out",
        "flags",
    )
)
RESULT_COLUMNS = (
    *METRIC_COLUMNS,
    "d1's verdict",
    "objective",
    "gamma",
    "normaliser",
    "EOS policy",
    "seed",
)


def table_rows(evaluations: list[Evaluation]) -> list[tuple[str, ...]]:
    """The rows of METRIC_COLUMNS of all evaluations, task by task."""
    rows = [row for evaluation in evaluations for row in metric_rows(evaluation.metrics)]
    return sorted(rows, key=lambda row: row[0])


def colours(run: RunData) -> dict[str, str]:
    """The colour of each checkpoint that was trained or evaluated."""
    evaluated = [_checkpoint(evaluation) for evaluation in run.evaluations]
    return figures.assign_colours([*evaluated, *(c.name for c in run.checkpoints)])


def _checkpoint(evaluation: Evaluation) -> str:
    return str(evaluation.metrics["checkpoint"].get("path", evaluation.name))


def results(run: RunData) -> dict[str, Any]:
    """The result table with the training settings in every row, its figure, and the decoders."""
    evaluations = run.evaluations
    rows = [row for evaluation in evaluations for row in _result_rows(evaluation)]
    decoders: dict[str, list[str]] = {}
    for evaluation in evaluations:
        found: dict[str, list[str]] = {}
        for task in evaluation.metrics["tasks"]:
            known = {k: v for k, v in decoder_settings(evaluation, task).items() if v is not None}
            found.setdefault(", ".join(f"{k} {v}" for k, v in known.items()), []).append(task)
        for settings, tasks in found.items():
            of = f" ({', '.join(tasks)})" if len(found) > 1 else ""
            decoders.setdefault(settings, []).append(f"{evaluation.name}{of}")
    return {
        "columns": RESULT_COLUMNS,
        "rows": sorted(rows, key=lambda row: row[0]),
        "figure": figures.accuracy_bars(_bars(evaluations), colours(run)),
        "by_length": _by_length(evaluations),
        "by_nfe": figures.accuracy_by_nfe(_points(evaluations)),
        "decoders": [(settings, ", ".join(names)) for settings, names in decoders.items()],
        "measures": [_task_measures(evaluations, task) for task in _tasks(evaluations)],
    }


def _result_rows(evaluation: Evaluation) -> Iterator[tuple[str, ...]]:
    metrics = evaluation.metrics
    trained = metrics["checkpoint"]
    settings = (
        objective_name(trained),
        _setting(trained, "rates", "gamma"),
        _setting(trained, "objective", "normalizer"),
        _eos_policy(trained),
        _setting(trained, "seed"),
    )
    for row, values in zip(metric_rows(metrics), metrics["tasks"].values(), strict=True):
        d1_accuracy = values.get("d1_accuracy")
        d1 = "-" if d1_accuracy is None else f"{100 * d1_accuracy:.1f} %"
        yield (*row, d1, *settings)


def objective_name(trained: dict[str, Any]) -> str:
    """What a checkpoint was trained by, in words: ``sft``, ``weft elbo online``, ``dft``."""
    rates, objective = trained.get("rates"), trained.get("objective")
    if not rates or not objective:
        return "-"
    name = str(objective.get("name", "weft"))
    if name not in RATED:
        return name
    if rates["gamma"] == 0:
        return "sft"
    usual = {"paper", "frozen", "full_mask"}
    parts = (objective.get("weighting"), rates.get("entropies"), rates.get("estimator"))
    return " ".join([name, *(part for part in parts if part and part not in usual)])


def _eos_policy(trained: dict[str, Any]) -> str:
    """The policy with what it depends on: ``random_tail 192``."""
    policy = _setting(trained, "eos_policy")
    return f"{policy} {_setting(trained, 'tail_max')}" if policy == "random_tail" else policy


def _setting(values: Any, *path: str) -> str:
    for name in path:
        values = values.get(name) if isinstance(values, dict) else None
    return "-" if values is None else str(values)


def _task_measures(evaluations: list[Evaluation], task: str) -> dict[str, Any]:
    """The measures that only this task has, one row an evaluation, and its headline measure."""
    found = {
        e.name: dict(_measures(e.metrics["tasks"][task]))
        for e in evaluations
        if task in e.metrics["tasks"]
    }
    names = list(dict.fromkeys(name for measures in found.values() for name in measures))
    headlines = {e.metrics["tasks"].get(task, {}).get("headline") for e in evaluations} - {None}
    return {
        "task": task,
        "headline": ", ".join(sorted(map(str, headlines))),
        "columns": ("method", *names),
        "rows": [
            (method, *(measures.get(name, "-") for name in names))
            for method, measures in found.items()
        ]
        if names
        else [],
    }


def _measures(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Name and text of a task's own measures: shares in per cent, pairs as ranges."""
    for name, value in values.items():
        label = f"{prefix}{name}".replace("_", " ")
        if not prefix and name in _STANDARD_METRICS:
            continue
        if isinstance(value, dict):
            yield from _measures(value, f"{label} ")
        elif isinstance(value, list):
            yield label, " - ".join(map(_measure, value))
        else:
            yield label, _measure(value)


def _measure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{100 * value:.1f} %" if 0 <= value <= 1 else f"{value:.4g}"


def _tasks(evaluations: list[Evaluation]) -> list[str]:
    return sorted({task for evaluation in evaluations for task in evaluation.metrics["tasks"]})


def _bars(evaluations: list[Evaluation]) -> dict[str, list[figures.Bar]]:
    return {
        task: [
            figures.Bar(e.name, _checkpoint(e), found["accuracy"], *found["interval"])
            for e in evaluations
            if (found := e.metrics["tasks"].get(task))
        ]
        for task in _tasks(evaluations)
    }


def _by_length(evaluations: list[Evaluation]) -> Any:
    """The figure of accuracy by length; None unless a checkpoint was decoded at several."""
    tasks: dict[str, dict[str, list[tuple[int, figures.Bar]]]] = {}
    for evaluation in evaluations:
        length = evaluation.metrics["sampler"].get("gen_length")
        for task, bars in _bars([evaluation]).items():
            curves = tasks.setdefault(task, {})
            curves.setdefault(_curve(evaluation, task), []).append((length, bars[0]))
    several = {
        task: {
            name.partition("\0")[0]: sorted(c, key=lambda p: p[0])
            for name, c in curves.items()
            if _varies(c)
        }
        for task, curves in tasks.items()
    }
    shown = {task: curves for task, curves in several.items() if curves}
    if not shown:
        return None
    return figures.accuracy_by_length(shown)


def _curve(evaluation: Evaluation, task: str) -> str:
    """What the evaluations of one curve have in common: checkpoint, items and fast decoder."""
    settings = decoder_settings(evaluation, task)
    fast = [f"{k} {settings[k]}" for k in ("cache", "threshold") if settings[k] not in _PLAIN]
    others = {k: v for k, v in settings.items() if k not in _OF_THE_LENGTH}
    key = artifacts.fingerprint([evaluation.items_identity(task), others])
    return "\0".join([", ".join([_checkpoint(evaluation), *fast]), key])


_PLAIN = (None, "none", 0.0)
_OF_THE_LENGTH = ("gen_length", "block_length", "steps")


def _varies(points: list[tuple[int, figures.Bar]]) -> bool:
    lengths = [length for length, _ in points]
    return None not in lengths and len(set(lengths)) == len(lengths) > 1


def _points(evaluations: list[Evaluation]) -> dict[str, list[tuple[float, figures.Bar]]]:
    """Mean forward passes and accuracy of every evaluation, by task."""
    return {
        task: [
            (e.metrics["tasks"][task]["nfe"], _bars([e])[task][0])
            for e in evaluations
            if task in e.metrics["tasks"]
        ]
        for task in _tasks(evaluations)
    }
