"""Intervals and paired comparisons of accuracies; the statistics are scipy's and statsmodels'."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANCE = 0.05
_FEWEST_PAIRS = 6
"""All of one kind have p = 2 / 2 ** 6 = 0.03; five have 0.06."""
POWER = 0.8
"""Probability with which a difference of the size in question would have been found."""
_RESAMPLES = 9999


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


def crossed_interval(values: np.ndarray, *, seed: int = 0) -> Interval:
    """95 % bootstrap interval of the mean of ``values`` [S, N], over S seeds and N items.

    Both are drawn anew: what another training would have given is part of the spread. With few
    seeds it is too narrow by about the square root of (S - 1) / S. Source: Owen, "The pigeonhole
    bootstrap" (arXiv 0712.1111).
    """
    rng = np.random.default_rng(seed)
    num_seeds, num_items = values.shape
    means = np.empty(_RESAMPLES)
    for k in range(_RESAMPLES):
        seeds = np.bincount(rng.integers(num_seeds, size=num_seeds), minlength=num_seeds)
        items = np.bincount(rng.integers(num_items, size=num_items), minlength=num_items)
        means[k] = seeds @ values @ items / (num_seeds * num_items)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def holm(p_values: Sequence[float]) -> list[float]:
    """``p_values`` corrected for their number, in their order. Source: Holm (1979)."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []


def smallest_paired_difference(num_items: int, num_differing: int) -> float | None:
    """The difference that an exact McNemar test at 5 % would show with a power of 80 %.

    Of ``num_items`` with so many differing pairs, at least the six below which the test never shows
    anything. None where that would be more than all items.
    """
    pairs = max(num_differing, _FEWEST_PAIRS)
    # Rejected at this many of one kind and more; binomial, symmetric under no difference.
    tail = stats.binom.sf(np.arange(pairs + 1) - 1, pairs, 0.5)
    critical = int(np.argmax(2 * tail <= SIGNIFICANCE))
    share = float(stats.beta.ppf(POWER, critical, pairs - critical + 1))
    difference = (2 * share - 1) * pairs / num_items
    return difference if difference <= 1 else None


def smallest_difference(differences: np.ndarray) -> float | None:
    """The mean difference that a sample like ``differences`` [N] would show with a power of 80 %.

    Two-sided paired t-test at 5 %. None where all differences are the same, which says nothing of
    their spread, and for less than two.
    """
    from statsmodels.stats.power import TTestPower

    if len(differences) < 2 or np.ptp(differences) == 0:
        return None
    effect = TTestPower().solve_power(nobs=len(differences), alpha=SIGNIFICANCE, power=POWER)
    return float(effect * np.std(differences, ddof=1))


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
    smallest: float | None
    """The difference that would have shown; see ``smallest_paired_difference``."""


def compare_items(first: Mapping[str, bool], second: Mapping[str, bool]) -> PairedComparison:
    """Compare the verdicts of two runs by item id; ValueError listing the ids that only one has."""
    if first.keys() != second.keys():
        raise ValueError(f"wanted the same items in both runs; {item_difference(first, second)}")
    ids = list(first)
    return compare_paired([first[i] for i in ids], [second[i] for i in ids])


def item_difference(first: Mapping[str, bool], second: Mapping[str, bool]) -> str:
    """Which item ids only one of two runs has, in words."""
    parts = []
    for name, here, there in (("first", first, second), ("second", second, first)):
        alone = [item for item in here if item not in there]
        if alone:
            more = f" and {len(alone) - 3} more" if len(alone) > 3 else ""
            parts.append(f"{len(alone)} only in the {name} ({', '.join(alone[:3])}{more})")
    return ", ".join(parts)


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
        smallest=smallest_paired_difference(len(a), differing),
    )
