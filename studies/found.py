"""What is read of a study's results: trainings by method and size, and comparisons of them.

Differences are taken seed by seed and item by item: every method of a seed saw the same order and
noise, and every evaluation has the same items.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from pipeline.statistics import crossed_interval, holm, smallest_difference
from studies.plan import GENERATED, REAL, Run, Study
from studies.results import Results

SETS = tuple((items, task) for items in (GENERATED, REAL) for task in ("sudoku", "countdown"))
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
        return accuracy_in(self.folder, items)

    def curve(self) -> list[tuple[int, float]]:
        """Steps, and the mean accuracy of the tasks there, where it was followed on the way."""
        names = [path.stem for path in self.folder.glob("step-*.json")]
        steps = sorted((int(name.partition("-")[2]), name) for name in names)
        return [(step, float(np.mean([*self.accuracy(name).values()]))) for step, name in steps]

    def total(self, name: str) -> float:
        """Of a metric that is counted from line to line, over all steps."""
        return sum(row.get(name, 0.0) for row in self.history)


def accuracy_in(folder: Path, items: str) -> dict[str, float]:
    """Of each task, as it is kept in ``folder``."""
    tasks = json.loads((folder / f"{items}.json").read_text())["tasks"]
    return {task: values["accuracy"] for task, values in tasks.items()}


Findings = dict[tuple[str, int], list[Found]]
"""Trainings by method and size; the seeds in rising order."""


def read_study(study: Study, results: Results) -> Findings:
    """All that was trained with the settings that ``study`` has; what has others is named."""
    found = defaultdict(list)
    for run in study.runs():
        if not results.has(run, study.config_of(run)):
            if (results.folder_of(run) / "run.json").exists():
                print(f"{results.folder_of(run)}: other settings, left out", file=sys.stderr)
            continue
        own = results.folder_of(run)
        lines = (own / "metrics.jsonl").read_text().splitlines()
        training = json.loads((own / "training.json").read_text())
        history = [json.loads(line) for line in lines]
        found[run.method, run.size].append(Found(run, own, history, training))
    return dict(found)


def methods_of(found: Findings, size: int) -> list[tuple[str, list[Found]]]:
    """The methods that were trained at ``size``, with their trainings."""
    return [(method, runs) for (method, own), runs in found.items() if own == size]


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
    """A method against another on one set of items."""

    by_seed: tuple[float, ...]
    """Difference of the accuracies of each seed."""
    difference: float
    low: float
    high: float
    p_value: float


def have_common_seeds(ours: Sequence[Found], theirs: Sequence[Found]) -> bool:
    """Whether the two can be compared."""
    return bool({f.run.seed for f in ours} & {f.run.seed for f in theirs})


def compare(ours: Sequence[Found], theirs: Sequence[Found]) -> list[Comparison]:
    """On each of ``SETS``; p-values of a paired t-test over seeds, corrected (Holm) over these."""
    found: list[Comparison] = []
    for items, task in SETS:
        values = differences(ours, theirs, items, task)
        by_seed = values.mean(axis=1)
        interval = crossed_interval(values)
        found.append(
            Comparison(
                by_seed=tuple(by_seed.tolist()),
                difference=float(values.mean()),
                low=interval.low,
                high=interval.high,
                p_value=_p_value(by_seed),
            )
        )
    corrected = holm([c.p_value for c in found])
    return [replace(c, p_value=p) for c, p in zip(found, corrected, strict=True)]


def smallest_shown(
    ours: Sequence[Found], theirs: Sequence[Found]
) -> list[tuple[float | None, float | None]]:
    """On each of ``SETS``, the differences that would have shown with a power of 80 %.

    Over other seeds, None of a single one; and over other items of these very trainings.
    """
    found = []
    for items, task in SETS:
        values = differences(ours, theirs, items, task)
        found.append(
            (smallest_difference(values.mean(axis=1)), smallest_difference(values.mean(axis=0)))
        )
    return found


def _p_value(by_seed: np.ndarray) -> float:
    """Two-sided paired t-test; of one seed, and of no difference at all, nothing follows."""
    if len(by_seed) < 2 or not by_seed.any():
        return 1.0
    if np.ptp(by_seed) == 0:
        return 0.0  # the same difference each time
    return float(stats.ttest_1samp(by_seed, 0.0).pvalue)
