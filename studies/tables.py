"""The tables of a study, as Markdown: ``python -m studies.tables studies/tiny``.

They are made of the study's ``results`` alone. Differences are taken seed by seed and item by item:
every method of a seed saw the same order and noise, and every evaluation has the same items.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from scipy import stats

from pipeline.statistics import crossed_interval, holm, smallest_difference
from pipeline.tables import DRIFT_COLUMNS, drift_rows
from pipeline.train.estimate import forward_flops, model_size
from pipeline.train.plan import num_steps_of_epoch
from pipeline.train.refresh import refresh_steps
from pipeline.train.stage import uses_entropies
from studies.plan import Run, Study, load_study

BASELINE = "sft"
SETS = (
    *(("generated", "sudoku"), ("generated", "countdown")),
    *(("real", "sudoku"), ("real", "countdown")),
)
"""Items and task of the four accuracies."""


@dataclass(frozen=True)
class Found:
    """The results of one training."""

    run: Run
    folder: Path
    history: list[dict[str, float]]
    training: dict[str, Any]

    def verdicts(self, items: str, task: str) -> dict[str, bool]:
        """Whether each item is right."""
        rows = pq.read_table(self.folder / f"{items}.parquet").to_pylist()
        return {row["item_id"]: row["correct"] for row in rows if row["task"] == task}

    def accuracy(self, items: str) -> dict[str, float]:
        """Of each task."""
        tasks = json.loads((self.folder / f"{items}.json").read_text())["tasks"]
        return {task: values["accuracy"] for task, values in tasks.items()}

    def total(self, name: str) -> float:
        """Of a metric that is counted from line to line, over all steps."""
        return sum(row.get(name, 0.0) for row in self.history)


def read_study(study: Study, folder: Path) -> dict[tuple[str, int], list[Found]]:
    """What is there, by method and size; the seeds in rising order."""
    found = defaultdict(list)
    for run in study.runs():
        own = folder / f"n{run.size}" / run.name
        if (own / "run.json").exists():
            lines = (own / "metrics.jsonl").read_text().splitlines()
            training = json.loads((own / "training.json").read_text())
            history = [json.loads(line) for line in lines]
            found[run.method, run.size].append(Found(run, own, history, training))
    return dict(found)


def differences(
    ours: Sequence[Found], theirs: Sequence[Found], items: str, task: str
) -> np.ndarray:
    """Verdicts of ``ours`` less those of ``theirs``, [seeds that both have, items]."""
    others = {found.run.seed: found for found in theirs}
    rows = []
    for found in ours:
        if found.run.seed in others:
            first = found.verdicts(items, task)
            second = others[found.run.seed].verdicts(items, task)
            if first.keys() != second.keys():
                raise ValueError(f"{found.folder} and {others[found.run.seed].folder}: other items")
            rows.append([float(first[i]) - float(second[i]) for i in sorted(first)])
    return np.array(rows)


@dataclass(frozen=True)
class Comparison:
    """A method against the baseline on one set of items."""

    mean: float
    difference: float
    low: float
    high: float
    p_value: float
    smallest: float | None
    num_seeds: int


def compare(ours: Sequence[Found], theirs: Sequence[Found]) -> list[Comparison]:
    """On each of ``SETS``; p-values of a paired t-test over seeds, corrected (Holm) over these."""
    found = []
    for items, task in SETS:
        values = differences(ours, theirs, items, task)
        by_seed = values.mean(axis=1)
        interval = crossed_interval(values)
        found.append(
            Comparison(
                mean=float(np.mean([f.accuracy(items)[task] for f in ours])),
                difference=float(values.mean()),
                low=interval.low,
                high=interval.high,
                p_value=_p_value(by_seed),
                smallest=smallest_difference(by_seed),
                num_seeds=len(by_seed),
            )
        )
    corrected = holm([c.p_value for c in found])
    return [replace(c, p_value=p) for c, p in zip(found, corrected, strict=True)]


def _p_value(by_seed: np.ndarray) -> float:
    """Two-sided paired t-test; of one seed, and of no difference at all, nothing follows."""
    if len(by_seed) < 2 or not by_seed.any():
        return 1.0
    if np.ptp(by_seed) == 0:
        return 0.0  # the same difference each time
    return float(stats.ttest_1samp(by_seed, 0.0).pvalue)


PAIRS = (
    ("weft-online", "weft"),
    ("weft-refreshed-1", "weft"),
    ("weft-refreshed-2", "weft"),
    ("weft-refreshed-1", "weft-online"),
    ("weft-elbo", "weft"),
    ("weft-partial", "weft"),
    ("weft-nll", "weft"),
    ("token-weights", "weft"),
    ("tuned", "weft"),
)
"""Further comparisons that the questions of the study ask for."""


def pair_table(found: dict[tuple[str, int], list[Found]], size: int) -> str:
    """The differences of ``PAIRS``, over the seeds that both have."""
    rows = []
    for method, other in PAIRS:
        if (method, size) in found and (other, size) in found:
            compared = compare(found[method, size], found[other, size])
            cells = [
                f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f}), "
                f"p {c.p_value:.2f}"
                for c in compared
            ]
            rows.append((f"{method} less {other}", str(compared[0].num_seeds), *cells))
    columns = ("methods", "seeds", *(f"{task}, {items}" for items, task in SETS))
    return markdown(columns, rows) if rows else ""


def accuracy_table(found: dict[tuple[str, int], list[Found]], size: int) -> str:
    """Mean accuracies (%) of all methods, and what they are above the baseline."""
    rows = []
    for method, runs in _methods(found, size):
        cells = [method, str(len(runs))]
        compared = None if method == BASELINE else compare(runs, found[BASELINE, size])
        for number, (items, task) in enumerate(SETS):
            values = [100 * f.accuracy(items)[task] for f in runs]
            spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cell = f"{np.mean(values):.1f}{spread}"
            if compared:
                c = compared[number]
                cell += f"; {100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
                cell += f", p {c.p_value:.2f}"
            cells.append(cell)
        nelbos = [f.training["facts"]["held_out_nelbo"] for f in runs]
        rows.append((*cells, f"{np.mean(nelbos):.4f}"))
    names = [f"{task}, {items}" for items, task in SETS]
    return markdown(("method", "seeds", *names, "held-out NELBO"), rows)


def power_table(found: dict[tuple[str, int], list[Found]], size: int) -> str:
    """The difference (points) that each comparison could have shown with a power of 80 %."""
    rows = []
    for method, runs in _methods(found, size):
        if method != BASELINE:
            smallest = [c.smallest for c in compare(runs, found[BASELINE, size])]
            rows.append((method, *("-" if s is None else f"{100 * s:.1f}" for s in smallest)))
    return markdown(("method", *(f"{task}, {items}" for items, task in SETS)), rows)


def cost_table(study: Study, found: dict[tuple[str, int], list[Found]], size: int) -> str:
    """Seconds, tokens per second and operations of a training, as they are and over SFT's."""
    base = np.mean([flops(study, f) for f in found[BASELINE, size]])
    rows = []
    for method, runs in _methods(found, size):
        seconds = np.mean([f.total("seconds") for f in runs])
        speed = np.mean([f.total("tokens") / f.total("seconds") for f in runs])
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
    if uses_entropies(config):
        facts = found.training["facts"]
        per = num_steps_of_epoch(facts["num_examples"], config.train.batch_size)
        passes = 1 + sum(step <= until for step in refresh_steps(config, per, facts["steps"]))
    all_tokens = 3.0 * tokens + extra + passes * per_epoch
    return forward_flops(size, num_tokens=all_tokens, length=per_epoch / num_examples)


def convergence_table(study: Study, found: dict[tuple[str, int], list[Found]], size: int) -> str:
    """When the first seed of each method reaches the accuracy that SFT's ends with.

    Accuracies of the first held-out items of both tasks together, at the kept checkpoints.
    """
    curves = {m: _curve(runs[0]) for m, runs in _methods(found, size) if runs[0].run.seed == 0}
    if BASELINE not in curves or not curves[BASELINE]:
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


def _curve(found: Found) -> list[tuple[float, float]]:
    paths = sorted(found.folder.glob("step-*.json"), key=lambda p: int(p.stem.partition("-")[2]))
    points = []
    for path in paths:
        accuracies = found.accuracy(path.stem)
        points.append((float(path.stem.partition("-")[2]), float(np.mean([*accuracies.values()]))))
    return points


def size_table(found: dict[tuple[str, int], list[Found]]) -> str:
    """WeFT less SFT at each size, over the seeds that both have there."""
    rows = []
    for size in sorted({size for _, size in found}):
        if ("weft", size) in found and (BASELINE, size) in found:
            compared = compare(found["weft", size], found[BASELINE, size])
            cells = [
                f"{100 * c.difference:+.1f} ({100 * c.low:+.1f} to {100 * c.high:+.1f})"
                for c in compared
            ]
            rows.append((str(size), str(compared[0].num_seeds), *cells))
    return markdown(("traces", "seeds", *(f"{task}, {items}" for items, task in SETS)), rows)


def search_table(folder: Path, name: str) -> str:
    """The trials of a search: what was tried, its NELBO and its accuracy on other items."""
    path = folder / f"search-{name}.json"
    if not path.exists():
        return ""
    trials = json.loads(path.read_text())["trials"]
    rows = [
        (
            trial["arm"],
            _parameters(trial["params"]),
            trial["status"],
            "-" if trial["nelbo"] is None else f"{trial['nelbo']:.4f}",
            "-" if trial["accuracy"] is None else f"{100 * trial['accuracy']:.1f}",
        )
        for trial in sorted(trials, key=lambda t: (t["arm"], t["number"]))
    ]
    return markdown(("arm", "parameters", "status", "NELBO", "accuracy (%)"), rows)


def _parameters(text: str) -> str:
    chosen = json.loads(text).items()
    return ", ".join(f"{key.partition('.')[2]} {_short(value)}" for key, value in chosen)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def token_table(folder: Path) -> str:
    """The tokens of the highest and of the lowest mean entropy."""
    path = folder / "tokens.json"
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    pairs = zip(found["highest"], found["lowest"], strict=False)
    rows = [(f"`{a[0]}`", *a[1:], f"`{b[0]}`", *b[1:]) for a, b in pairs]
    return markdown(("highest", "nats", "count", "lowest", "nats", "count"), rows)


def drift_table(folder: Path) -> str:
    """How far the entropies move under the first seed of WeFT."""
    path = folder / "drift.json"
    return (
        markdown(DRIFT_COLUMNS, drift_rows(json.loads(path.read_text()))) if path.exists() else ""
    )


def _methods(
    found: dict[tuple[str, int], list[Found]], size: int
) -> Iterable[tuple[str, list[Found]]]:
    return ((method, runs) for (method, own), runs in found.items() if own == size)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def main(study_folder: tyro.conf.Positional[Path]) -> None:
    """Print all tables for which there are results."""
    study, folder = load_study(study_folder), study_folder / "results"
    found, size = read_study(study, folder), study.plan.base_size
    if (BASELINE, size) not in found:
        sys.exit(f"{folder}: wanted at least one training of {BASELINE}; python -m studies.run")
    parts = {
        f"Accuracy, {size} traces": accuracy_table(found, size),
        "Further pairs": pair_table(found, size),
        "Smallest difference to show": power_table(found, size),
        "Cost": cost_table(study, found, size),
        "On the way": convergence_table(study, found, size),
        "Sizes": size_table(found),
        "Drift of the entropies": drift_table(folder),
        "Tokens by entropy": token_table(folder),
        "Learning rates": search_table(folder, "learning-rates"),
        "Search over the objective": search_table(folder, "objective"),
    }
    for title, table in parts.items():
        if table:
            print(f"### {title}\n\n{table}\n")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
