"""The parts of the report as plain values for its template: tables of strings, and figures."""

import json
from typing import Any

from pipeline.comparisons import Comparison, compare_all
from pipeline.report import figures
from pipeline.report.data import Checkpoint, Evaluation, RunData
from pipeline.report.results import colours
from pipeline.seeds import SeedGroup, baseline_of, common_name, compare_seeds, seed_groups
from pipeline.tables import DRIFT_COLUMNS, drift_rows

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
