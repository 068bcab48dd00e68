"""The parts of the report as plain values for its template: tables of strings, and figures."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline import artifacts, figures
from pipeline.comparisons import Comparison, compare_all, decoder_settings
from pipeline.report_data import Checkpoint, Evaluation, RunData
from pipeline.seeds import SeedGroup, baseline_of, common_name, compare_seeds, seed_groups
from pipeline.tables import DRIFT_COLUMNS, METRIC_COLUMNS, drift_rows, metric_rows

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
    "gamma",
    "normaliser",
    "EOS policy",
    "seed",
)


def table_rows(evaluations: list[Evaluation]) -> list[tuple[str, ...]]:
    """The rows of METRIC_COLUMNS of all evaluations, task by task."""
    rows = [row for evaluation in evaluations for row in metric_rows(evaluation.metrics)]
    return sorted(rows, key=lambda row: row[0])


DATA_COLUMNS = ("source", "examples", "prompt tokens", "response tokens", "longest", "rejected")


def data_card(run: RunData) -> dict[str, Any] | None:
    """What each source gave, the lengths of its examples, and why rows were kept out."""
    if run.card is None:
        return None
    sources = run.card["sources"]
    reasons = [
        (name, reason, f"{count:,}")
        for name, card in sources.items()
        for reason, count in card["rejected"].items()
    ]
    overlaps = [
        (row["source"], f"{row['file']} {row['position']}".strip(), row["detail"])
        for row in run.card["benchmark_overlaps"]
    ]
    return {
        "columns": DATA_COLUMNS,
        "rows": [_data_row(name, card) for name, card in sources.items()],
        "reasons": reasons,
        "overlaps": overlaps,
        "num_overlaps": sum(c["rejected"].get("benchmark_overlap", 0) for c in sources.values()),
        "figure": figures.length_histograms(sources, run.card["length_edges"]),
    }


def _data_row(name: str, card: dict[str, Any]) -> tuple[str, ...]:
    count = card["num_examples"]
    means = (card[key] / count if count else 0.0 for key in ("prompt_tokens", "response_tokens"))
    rejected = sum(card["rejected"].values())
    return (
        name,
        f"{count:,}",
        *(f"{mean:.1f} each" for mean in means),
        f"{card['longest']:,}",
        f"{rejected:,} of {count + rejected:,}",
    )


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
        _setting(trained, "rates", "gamma"),
        _setting(trained, "objective", "normalizer"),
        _eos_policy(trained),
        _setting(trained, "seed"),
    )
    for row, values in zip(metric_rows(metrics), metrics["tasks"].values(), strict=True):
        d1_accuracy = values.get("d1_accuracy")
        d1 = "-" if d1_accuracy is None else f"{100 * d1_accuracy:.1f} %"
        yield (*row, d1, *settings)


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


COMPARISON_COLUMNS = (
    "task",
    "method",
    "baseline",
    "n",
    "difference",
    "95 % interval",
    "p",
    "p (Holm)",
    "smallest to show",
    "only it right",
    "only baseline right",
    "verdict",
)


def comparisons(evaluations: list[Evaluation], baseline: str) -> list[tuple[str, ...]]:
    """Rows of COMPARISON_COLUMNS."""
    return [_comparison_row(found) for found in compare_all(evaluations, baseline)]


def _comparison_row(found: Comparison) -> tuple[str, ...]:
    names, result = (found.task, found.method, found.baseline), found.result
    if result is None:
        return (*names, *"--------", found.verdict)
    smallest = "-" if result.smallest is None else f"{100 * result.smallest:.1f} points"
    low, high = 100 * result.interval.low, 100 * result.interval.high
    return (
        *names,
        str(result.num_items),
        f"{100 * result.difference:+.1f} points",
        f"{low:+.1f} to {high:+.1f}",
        f"{result.p_value:.3g}",
        f"{found.p_corrected:.3g}",
        smallest,
        str(result.only_first),
        str(result.only_second),
        found.verdict,
    )


SEED_COLUMNS = (
    "task",
    "method",
    "seeds",
    "mean accuracy",
    "of each seed",
    "baseline",
    "difference",
    "95 % interval",
    "smallest to show",
    "of each pair",
)


def seeds(evaluations: list[Evaluation], baseline: str) -> list[tuple[str, ...]]:
    """Rows of SEED_COLUMNS: one for every recipe that was trained with several seeds."""
    groups = seed_groups(evaluations)
    return [_seed_row(group, baseline_of(group, groups, baseline)) for group in groups]


def _seed_row(group: SeedGroup, other: SeedGroup | None) -> tuple[str, ...]:
    accuracies = [f"{100 * accuracy:.1f}" for accuracy in group.accuracies]
    mean = 100 * sum(group.accuracies) / len(group.accuracies)
    own = (
        group.task,
        group.label,
        ", ".join(map(str, group.by_seed)),
        f"{mean:.1f} %",
        ", ".join(accuracies),
    )
    found = compare_seeds(group, other) if other else None
    if other is None or found is None:
        return (*own, *"-----")
    low, high = 100 * found.interval.low, 100 * found.interval.high
    return (
        *own,
        other.label,
        f"{100 * found.difference:+.1f} points",
        f"{low:+.1f} to {high:+.1f}",
        "-" if found.smallest is None else f"{100 * found.smallest:.1f} points",
        ", ".join(f"{100 * difference:+.1f}" for difference in found.by_seed),
    )


FINAL_METRICS = (
    "step",
    "epoch",
    "loss",
    "nll",
    "mask_fraction",
    "clamp_rate",
    "grad_norm",
    "tokens_per_second",
)


def drift(run: RunData) -> dict[str, Any] | None:
    """How far each training moved the entropies, step by step."""
    if not run.drifts:
        return None
    histories = {found.name: found.rows for found in run.drifts}
    rows = [(d.name, *row) for d in run.drifts for row in drift_rows(d.rows)]
    colour = colours(run)
    colour |= figures.assign_colours([name for name in histories if name not in colour])
    return {
        "columns": ("checkpoint", *DRIFT_COLUMNS),
        "rows": rows,
        "figure": figures.drift_curves(histories, colour),
    }


def learning(run: RunData) -> dict[str, Any] | None:
    """The learning curves of all checkpoints; None where nothing was logged."""
    histories = {c.name: c.history for c in run.checkpoints if c.history}
    if not histories:
        return None
    groups = _by_recipe(run)
    return {
        "curves": figures.learning_curves(groups, figures.assign_colours(list(groups))),
        "noise_levels": figures.noise_level_losses(histories, colours(run)),
        "final": [
            (name, *(f"{history[-1].get(k, float('nan')):.4g}" for k in FINAL_METRICS))
            for name, history in histories.items()
        ],
        "columns": ("checkpoint", *(name.replace("_", " ") for name in FINAL_METRICS)),
    }


def _by_recipe(run: RunData) -> dict[str, dict[str, figures.History]]:
    """The logged metrics of trainings that differ in their seed alone, under their common name."""
    found: dict[str, list[Checkpoint]] = {}
    for checkpoint in run.checkpoints:
        if checkpoint.history:
            found.setdefault(checkpoint.recipe_but_seed, []).append(checkpoint)
    groups: dict[str, dict[str, figures.History]] = {}
    for members in found.values():
        names = [c.name for c in members]
        common = common_name(names)
        label = ", ".join(names) if common in groups else common
        groups[label] = {c.name: c.history for c in members}
    return groups


PROVENANCE_COLUMNS = (
    *("artifact", "stage", "recipe", "content", "rows", "rejected", "seconds"),
    *("commit", "machine", "code"),
)


def provenance(run: RunData) -> dict[str, Any]:
    """Fingerprints, counts, times and settings of every artifact."""
    manifests = run.manifests()
    rows = [
        (
            name,
            manifest.stage,
            manifest.recipe,
            manifest.content,
            str(manifest.num_rows),
            ", ".join(f"{reason} {count}" for reason, count in manifest.rejected.items()) or "-",
            *(
                str(manifest.facts.get(key, "-"))
                for key in ("seconds", "commit", "machine", "code")
            ),
        )
        for name, manifest in manifests.items()
    ]
    details = [
        (name, json.dumps({"config": m.config, "inputs": m.inputs, "facts": m.facts}, indent=2))
        for name, m in manifests.items()
    ]
    return {"columns": PROVENANCE_COLUMNS, "rows": rows, "details": details}
