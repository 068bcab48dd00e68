"""The tables of a study, as Markdown, made of its results alone."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.tables import DRIFT_COLUMNS, drift_rows
from pipeline.train.estimate import forward_flops, model_size
from pipeline.train.plan import num_steps_of_epoch
from pipeline.train.refresh import refresh_steps
from studies.found import (
    SETS,
    Comparison,
    Findings,
    Found,
    accuracy_in,
    compare,
    have_common_seeds,
    methods_of,
    read_study,
    smallest_shown,
)
from studies.plan import BASELINE, OBJECTIVE, WEFT, Study
from studies.results import Results

PAIRS = (
    ("weft-online", "weft"),
    ("weft-refreshed-1", "weft"),
    ("weft-refreshed-2", "weft"),
    ("weft-refreshed-1", "weft-online"),
    ("weft-elbo", "weft"),
    ("weft-elbo-online", "weft-online"),
    ("weft-partial", "weft"),
    ("weft-partial-online", "weft-online"),
    ("weft-nll", "weft"),
    ("token-weights", "weft"),
    ("tuned", "weft"),
)
"""Comparisons beside those with the baseline that the questions of the study ask for."""
_SET_COLUMNS = tuple(f"{task}, {items}" for items, task in SETS)


def all_tables(study: Study, results: Results) -> dict[str, str]:
    """Every table by name; empty where there is nothing for it yet."""
    found, size = read_study(study, results), study.plan.base_size
    against_baseline = [(method, BASELINE) for method, _ in methods_of(found, size)]
    return {
        "accuracy": accuracy_table(study, results, found, size),
        "baseline": comparison_table(found, size, against_baseline),
        "pairs": comparison_table(found, size, PAIRS),
        "power": power_table(found, size),
        "cost": cost_table(study, found, size),
        "convergence": convergence_table(study, found, size),
        "sizes": size_table(found),
        "drift": drift_table(study, results),
        "tokens": token_table(results),
        "learning-rates": search_table(results, "learning-rates"),
        "objective": search_table(results, OBJECTIVE),
    }


def accuracy_table(study: Study, results: Results, found: Findings, size: int) -> str:
    """Mean accuracies (%) of all methods with the standard deviation of their seeds."""
    rows = []
    base = study.base_run()
    if results.has(base, study.at(size)):
        folder = results.folder_of(base)
        accuracies = (accuracy_in(folder, items)[task] for items, task in SETS)
        rows.append(("base", "-", *(f"{100 * a:.1f}" for a in accuracies), "-"))
    for method, runs in methods_of(found, size):
        cells = []
        for items, task in SETS:
            values = [100 * f.accuracy(items)[task] for f in runs]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        nelbo = np.mean([f.training["facts"]["held_out_nelbo"] for f in runs])
        rows.append((method, str(len(runs)), *cells, f"{nelbo:.4f}"))
    return markdown(("method", "seeds", *_SET_COLUMNS, "held-out NELBO"), rows)


def comparison_table(found: Findings, size: int, pairs: Iterable[tuple[str, str]]) -> str:
    """Differences (points) of pairs of methods over the seeds that both have."""
    rows = []
    for method, other in pairs:
        ours, theirs = found.get((method, size), []), found.get((other, size), [])
        if method != other and have_common_seeds(ours, theirs):
            compared = compare(ours, theirs)
            seeds = str(len(compared[0].by_seed))
            rows.append((f"{method} less {other}", seeds, *map(_difference, compared)))
    return markdown(("methods", "seeds", *_SET_COLUMNS), rows)


def _difference(compared: Comparison) -> str:
    low, high = 100 * compared.low, 100 * compared.high
    p_value = "p < 0.01" if compared.p_value < 0.005 else f"p {compared.p_value:.2f}"
    if len(compared.by_seed) < 2:
        p_value = "one seed"
    return f"{100 * compared.difference:+.1f} ({low:+.1f} to {high:+.1f}), {p_value}"


def power_table(found: Findings, size: int) -> str:
    """The difference (points) that each comparison could have shown with a power of 80 %.

    First as a statement about other seeds, then about these trainings and other items.
    """
    rows = []
    for method, runs in methods_of(found, size):
        if method != BASELINE and have_common_seeds(runs, found.get((BASELINE, size), [])):
            smallest = smallest_shown(runs, found[BASELINE, size])
            rows.append((method, *(", ".join(map(_points, pair)) for pair in smallest)))
    return markdown(("method", *_SET_COLUMNS), rows)


def _points(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def cost_table(study: Study, found: Findings, size: int) -> str:
    """What a training takes: seconds, tokens per second, extra tokens, operations over SFT's.

    The first two are medians of the seeds: other work on the machine makes single ones slow.
    """
    if (BASELINE, size) not in found:
        return ""
    base = np.mean([flops(study, f) for f in found[BASELINE, size]])
    rows = []
    for method, runs in methods_of(found, size):
        seconds = np.median([f.total("seconds") for f in runs])
        speed = np.median([f.total("tokens") / f.total("seconds") for f in runs])
        extra = np.mean([f.total("extra_tokens") / f.total("tokens") for f in runs])
        own = np.mean([flops(study, f) for f in runs])
        rows.append(
            (method, f"{seconds:.0f}", f"{speed:,.0f}", f"{extra:.2f}", f"{own / base:.2f}")
        )
    columns = ("method", "seconds", "tokens/s", "extra tokens a token", "operations over SFT")
    return markdown(columns, rows)


def flops(study: Study, found: Found, *, until: float = math.inf) -> float:
    """Operations of a training up to the step ``until``, with what its entropies took.

    A forward and backward pass are three forward passes; a pass without gradient is one.
    """
    size = model_size(study.base.model.path)
    lines = [row for row in found.history if row["step"] <= until]
    tokens, extra = (sum(row[name] for row in lines) for name in ("tokens", "extra_tokens"))
    num_examples = found.training["facts"]["num_examples"]
    per_epoch = found.total("tokens") / max(1, round(found.history[-1]["epoch"]) + 1)
    config = study.config_of(found.run)
    passes = 0
    if config.uses_entropies:
        facts = found.training["facts"]
        per = num_steps_of_epoch(facts["num_examples"], config.train.batch_size)
        passes = 1 + sum(step <= until for step in refresh_steps(config, per, facts["steps"]))
    all_tokens = 3.0 * tokens + extra + passes * per_epoch
    return forward_flops(size, num_tokens=all_tokens, length=per_epoch / num_examples)


def convergence_table(study: Study, found: Findings, size: int) -> str:
    """When the first seed of each method reaches the accuracy that SFT's ends with.

    Accuracies of the first held-out items of both tasks together, at the kept checkpoints.
    """
    curves = {m: runs[0].curve() for m, runs in methods_of(found, size) if runs[0].run.seed == 0}
    if not curves.get(BASELINE):
        return ""
    goal = curves[BASELINE][-1][1]
    rows = []
    for method, curve in curves.items():
        reached = next((step for step, accuracy in curve if accuracy >= goal), None)
        first = found[method, size][0]
        steps = "not reached" if reached is None else f"{reached:.0f}"
        work = "-" if reached is None else f"{flops(study, first, until=reached) / 1e15:.3f}"
        rows.append((method, *(f"{100 * a:.1f}" for _, a in curve), steps, work))
    steps_of = [f"step {step:.0f}" for step, _ in curves[BASELINE]]
    return markdown(("method", *steps_of, f"steps to {100 * goal:.1f} %", "PFLOP to it"), rows)


def size_table(found: Findings) -> str:
    """At each size SFT's accuracy (%), all of its seeds, and WeFT's difference over common ones."""
    rows = []
    for size in sizes_of(found):
        compared = compare(found[WEFT, size], found[BASELINE, size])
        seeds = str(len(compared[0].by_seed))
        bases = [
            100 * np.mean([f.accuracy(items)[task] for f in found[BASELINE, size]])
            for items, task in SETS
        ]
        cells = (f"{b:.1f}: {_difference(c)}" for b, c in zip(bases, compared, strict=True))
        rows.append((f"{size:,}", seeds, *cells))
    return markdown(("traces of each puzzle", "seeds", *_SET_COLUMNS), rows)


def sizes_of(found: Findings) -> list[int]:
    """The sizes at which WeFT and the baseline were both trained."""
    return sorted(
        size
        for size in {size for _, size in found}
        if have_common_seeds(found.get((WEFT, size), []), found.get((BASELINE, size), []))
    )


def search_table(results: Results, name: str) -> str:
    """The trials of a search: what was tried, its NELBO and its accuracy on other items."""
    rows = [
        (
            trial["arm"],
            _parameters(trial["params"]),
            trial["status"],
            "-" if trial["nelbo"] is None else f"{trial['nelbo']:.4f}",
            "-" if trial["accuracy"] is None else f"{100 * trial['accuracy']:.1f}",
            "chosen" if trial["is_best_of_arm"] else "",
        )
        for trial in sorted(results.trials(name), key=lambda t: (t["arm"], t["number"]))
    ]
    return markdown(("arm", "parameters", "status", "NELBO", "accuracy (%)", ""), rows)


def _parameters(text: str) -> str:
    chosen = json.loads(text).items()
    return ", ".join(f"{key.partition('.')[2]} {_short(value)}" for key, value in chosen)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def token_table(results: Results) -> str:
    """The tokens of the highest and of the lowest mean entropy."""
    found = results.tokens()
    pairs = zip(found["highest"], found["lowest"], strict=False)
    rows = [(f"`{a[0]}`", *a[1:], f"`{b[0]}`", *b[1:]) for a, b in pairs]
    return markdown(("highest", "nats", "count", "lowest", "nats", "count"), rows)


def drift_table(study: Study, results: Results) -> str:
    """How far the entropies move under the first seed of WeFT."""
    rows = results.drift(study.config_of(study.drift_run()))
    return markdown(DRIFT_COLUMNS, drift_rows(rows or []))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; nothing without rows."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])
