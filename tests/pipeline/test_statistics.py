"""Intervals and paired tests against numbers worked out by hand."""

import math

import numpy as np
import pytest

from pipeline.statistics import (
    accuracy_interval,
    compare_items,
    compare_paired,
    crossed_interval,
    holm,
    mean_interval,
    smallest_difference,
    smallest_paired_difference,
)


def answers(correct: int, total: int) -> list[bool]:
    return [True] * correct + [False] * (total - correct)


def test_wilson_interval_is_the_formula() -> None:
    """Centre (p + z^2/2n) / (1 + z^2/n), half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)."""
    p, n, z = 0.3, 20, 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    found = accuracy_interval(answers(6, 20), "wilson")
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-12)
    assert (found.low, found.high) == pytest.approx((0.1455, 0.5190), abs=1e-4)


@pytest.mark.parametrize("method", ["wilson", "bootstrap"])
def test_an_interval_has_width_where_all_items_agree(method: str) -> None:
    """Wilson at p = 0 is [0, z^2 / (n + z^2)]; a bootstrap there would claim certainty."""
    squared = 1.959963984540054**2
    none, every = accuracy_interval([False] * 10, method), accuracy_interval([True] * 10, method)
    assert (none.low, none.high) == pytest.approx((0.0, squared / (10 + squared)), abs=1e-12)
    assert (every.low, every.high) == pytest.approx((10 / (10 + squared), 1.0), abs=1e-12)


def test_bootstrap_interval_is_repeatable_and_near_the_normal_one() -> None:
    correct = answers(60, 200)
    found = accuracy_interval(correct, "bootstrap", seed=3)
    assert found == accuracy_interval(correct, "bootstrap", seed=3)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 200)
    # 9999 resamples of a mean on a grid of 1/200: an end is off by a grid step or two at most.
    assert (found.low, found.high) == pytest.approx((0.3 - half, 0.3 + half), abs=0.011)


def test_mean_interval_lies_within_the_values() -> None:
    values = np.array([-1.0, 0.0, 0.0, 1.0, 1.0])
    found = mean_interval(values)
    assert -1.0 <= found.low < values.mean() < found.high <= 1.0


def test_mcnemar_test_worked_by_hand() -> None:
    """1 against 5 of 6 differing pairs: p = 2 (C(6,0) + C(6,1)) / 2^6 = 14/64."""
    first = [True] * 3 + [True] * 1 + [False] * 5 + [False] * 3
    second = [True] * 3 + [False] * 1 + [True] * 5 + [False] * 3
    found = compare_paired(first, second)
    assert (found.only_first, found.only_second, found.num_items) == (1, 5, 12)
    assert found.p_value == pytest.approx(14 / 64)
    assert found.difference == pytest.approx(-4 / 12)
    assert found.interval.low < found.difference < found.interval.high


def test_compare_paired_mirrors_when_the_runs_change_places() -> None:
    first, second = answers(7, 10), [False, True] * 5
    there, back = compare_paired(first, second), compare_paired(second, first)
    assert there.p_value == back.p_value
    assert there.difference == -back.difference
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first)


def test_runs_that_agree_everywhere_do_not_differ() -> None:
    found = compare_paired(answers(2, 5), answers(2, 5))
    assert (found.p_value, found.difference) == (1.0, 0.0)
    assert (found.interval.low, found.interval.high) == (0.0, 0.0)


def test_one_item_alone_says_nothing_of_others() -> None:
    for first, second, difference in ((True, False, 1.0), (True, True, 0.0)):
        found = compare_paired([first], [second])
        assert (found.difference, found.p_value) == (difference, 1.0)
        assert (found.interval.low, found.interval.high) == (-1.0, 1.0)


def test_statistics_refuse_nothing_and_unequal_items() -> None:
    with pytest.raises(ValueError, match="wanted at least one item, got none"):
        accuracy_interval([], "wilson")
    with pytest.raises(ValueError, match="wanted the same items, at least one; got 2 and 1"):
        compare_paired([True, False], [True])
    with pytest.raises(ValueError, match="got 0 and 0"):
        compare_paired([], [])


def test_items_are_paired_by_their_ids() -> None:
    first, second = {"a": True, "b": False, "c": True}, {"c": True, "b": True, "a": True}
    assert compare_items(first, second) == compare_paired([True, False, True], [True, True, True])
    message = (
        r"wanted the same items.*1 only in the first \(c\), 4 only in the second \(d, e, f and 1"
    )
    with pytest.raises(ValueError, match=message):
        compare_items({"a": True, "c": True}, dict.fromkeys("adefg", True))


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1, and never below the one before."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_smallest_difference_is_the_usual_approximation() -> None:
    """(1.96 + 0.84) standard errors, for many items."""
    differences = np.array([1.0] * 300 + [-1.0] * 200 + [0.0] * 500)
    error = differences.std(ddof=1) / math.sqrt(1000)
    wanted = (1.959964 + 0.841621) * error
    assert smallest_difference(differences) == pytest.approx(wanted, rel=0.002)
    assert smallest_difference(np.zeros(5)) is None
    assert smallest_difference(np.ones(1)) is None


def test_the_smallest_paired_difference_has_the_stated_power() -> None:
    """Drawn anew with that share of one kind, the exact test rejects four times in five."""
    from scipy import stats

    for num_items, differing in ((500, 40), (128, 17), (1000, 300)):
        difference = smallest_paired_difference(num_items, differing)
        assert difference is not None
        share = (1 + difference * num_items / differing) / 2
        counts = np.arange(differing + 1)
        rejects = np.array([stats.binomtest(int(k), differing).pvalue <= 0.05 for k in counts])
        upper = rejects & (counts > differing / 2)
        assert stats.binom.pmf(counts, differing, share)[upper].sum() == pytest.approx(
            0.8, abs=1e-6
        )


def test_less_than_six_differing_items_show_nothing() -> None:
    few, six = smallest_paired_difference(500, 1), smallest_paired_difference(500, 6)
    assert few == six == pytest.approx((2 * 0.8 ** (1 / 6) - 1) * 6 / 500)
    assert smallest_paired_difference(4, 2) is None


def test_seeds_widen_an_interval_that_items_alone_do_not() -> None:
    rng = np.random.default_rng(0)
    effects = np.array([0.3, -0.1, 0.1, 0.2, 0.0])[:, None]
    values = effects + rng.normal(size=(5, 400)) * 0.1
    crossed, items = crossed_interval(values), mean_interval(values.mean(axis=0))
    assert crossed.low < items.low < items.high < crossed.high
    # Over seeds alone: the standard error of five means, less their share (S - 1) / S.
    half = 1.96 * effects.std(ddof=0) / math.sqrt(5)
    assert crossed.high - crossed.low == pytest.approx(2 * half, rel=0.1)


def test_without_differing_seeds_items_decide() -> None:
    """Of equal rows the interval is that of one row, but for the grid of the bootstrap."""
    row = (np.arange(100) % 4 == 0).astype(float)
    crossed, single = crossed_interval(np.tile(row, (3, 1))), mean_interval(row)
    assert (crossed.low, crossed.high) == pytest.approx((single.low, single.high), abs=0.011)
