"""Intervals and paired comparisons of accuracies; the statistics themselves are scipy's."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def accuracy_interval(correct: Sequence[bool], method: str, *, seed: int = 0) -> Interval:
    """95 % interval of the mean of ``correct``, at least one item.

    ``wilson``: Wilson's score interval. ``bootstrap``: percentile bootstrap over items; where all
    items agree a bootstrap has no width, so that Wilson's interval is given instead.
    """
    if not correct:
        raise ValueError("accuracy_interval: wanted at least one item, got none")
    if method == "wilson" or len(set(correct)) == 1:
        result = stats.binomtest(int(sum(correct)), len(correct))
        found = result.proportion_ci(CONFIDENCE, method="wilson")
        return Interval(float(found.low), float(found.high))
    values = np.asarray(correct, dtype=np.float64)
    return mean_interval(values, seed=seed)


def mean_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """95 % percentile bootstrap interval of the mean of ``values`` [N]."""
    found = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(found.low), float(found.high))


@dataclass(frozen=True)
class PairedComparison:
    """``first`` against ``second`` on the same items."""

    num_items: int
    difference: float
    """Accuracy of the first less that of the second."""
    interval: Interval
    """95 % bootstrap interval of the difference, over items."""
    p_value: float
    """Two-sided exact McNemar test."""
    only_first: int
    only_second: int


def compare_paired(first: Sequence[bool], second: Sequence[bool]) -> PairedComparison:
    """Compare two runs item by item; ValueError when they are not of one length."""
    if len(first) != len(second) or not first:
        raise ValueError(
            f"compare_paired: wanted the same items, at least one; got {len(first)} and "
            f"{len(second)}"
        )
    a, b = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    only_first, only_second = int(np.sum(a > b)), int(np.sum(a < b))
    differing = only_first + only_second
    p_value = stats.binomtest(only_first, differing).pvalue if differing else 1.0
    difference = (a - b).astype(np.float64)
    # One item says nothing of others; items that all agree have no spread to resample.
    agreed = Interval(0.0, 0.0) if len(a) > 1 else Interval(-1.0, 1.0)
    spread = mean_interval(difference) if differing and len(a) > 1 else agreed
    return PairedComparison(
        num_items=len(a),
        difference=float(np.mean(difference)),
        interval=spread,
        p_value=float(p_value),
        only_first=only_first,
        only_second=only_second,
    )
