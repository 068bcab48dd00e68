"""Evaluations that differ in nothing but the seed of training, taken together."""

import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.comparisons import decoder_settings, is_named, verdicts
from pipeline.report.data import Evaluation
from pipeline.statistics import Interval, crossed_interval, smallest_difference


@dataclass(frozen=True)
class SeedGroup:
    """Evaluations of one task and one recipe, by the seed of training."""

    task: str
    label: str
    """What the names of their checkpoints begin with: ``sft`` of ``sft-0`` and ``sft-1``."""
    by_seed: dict[int, Evaluation]

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each seed, in the order of the seeds."""
        return [float(e.metrics["tasks"][self.task]["accuracy"]) for e in self.by_seed.values()]


@dataclass(frozen=True)
class SeedComparison:
    """A group against the baseline's, over the seeds that both have."""

    difference: float
    """Mean over seeds and items of the difference of verdicts."""
    interval: Interval
    """95 % bootstrap interval of that mean, over seeds and items; see ``crossed_interval``."""
    smallest: float | None
    """The difference that these seeds could have shown, taken as a sample of their own."""
    by_seed: tuple[float, ...]
    """The difference of accuracies for each seed."""


def seed_groups(evaluations: list[Evaluation]) -> list[SeedGroup]:
    """Groups of at least two seeds, by task and label.

    What one group shares: the items, the decoder and everything that went into training but the
    seed. Of two evaluations of one seed the first by name is taken.
    """
    found: dict[tuple[str, ...], dict[int, Evaluation]] = {}
    for evaluation in sorted(evaluations, key=lambda e: e.name):
        trained = evaluation.metrics["checkpoint"]
        if trained.get("recipe_but_seed") is None:
            continue
        for task in evaluation.metrics["tasks"]:
            decoder = json.dumps(decoder_settings(evaluation, task), sort_keys=True)
            key = (task, trained["recipe_but_seed"], evaluation.items_identity(task), decoder)
            found.setdefault(key, {}).setdefault(int(trained["seed"]), evaluation)
    groups = [
        SeedGroup(key[0], _label(members.values()), dict(sorted(members.items())))
        for key, members in found.items()
        if len(members) > 1
    ]
    return sorted(groups, key=lambda group: (group.task, group.label))


def baseline_of(group: SeedGroup, groups: list[SeedGroup], baseline: str) -> SeedGroup | None:
    """The group of ``baseline`` with the task, the items and the decoder of ``group``, or None."""
    return next(
        (
            other
            for other in groups
            if other is not group
            and is_named(other.label, baseline)
            and _conditions(other) == _conditions(group)
        ),
        None,
    )


def compare_seeds(group: SeedGroup, other: SeedGroup) -> SeedComparison | None:
    """``group`` less ``other`` seed by seed and item by item; None without a common seed."""
    seeds = [seed for seed in group.by_seed if seed in other.by_seed]
    if not seeds:
        return None
    differences = np.array(
        [_difference(group.by_seed[s], other.by_seed[s], group.task) for s in seeds]
    )
    by_seed = differences.mean(axis=1)
    return SeedComparison(
        difference=float(differences.mean()),
        interval=crossed_interval(differences),
        smallest=smallest_difference(by_seed),
        by_seed=tuple(by_seed.tolist()),
    )


def _conditions(group: SeedGroup) -> tuple[str, str, dict[str, Any]]:
    first = next(iter(group.by_seed.values()))
    return group.task, first.items_identity(group.task), decoder_settings(first, group.task)


def _difference(first: Evaluation, second: Evaluation, task: str) -> list[float]:
    ours, theirs = verdicts(first, task), verdicts(second, task)
    return [float(ours[item]) - float(theirs[item]) for item in sorted(ours)]


def _label(members: Iterable[Evaluation]) -> str:
    return common_name([str(e.metrics["checkpoint"]["path"]) for e in members])


def common_name(names: Sequence[str]) -> str:
    """What all ``names`` begin with: ``sft`` of ``sft-0`` and ``sft-1``; a single one whole."""
    if len(names) == 1:
        return names[0]
    shared = itertools.takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False))
    return "".join(c[0] for c in shared).rstrip("-_.") or ", ".join(names)
