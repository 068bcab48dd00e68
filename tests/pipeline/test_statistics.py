"""Intervals and paired tests against numbers worked out by hand."""

import math

import numpy as np
import pytest

from pipeline.statistics import accuracy_interval, compare_paired, mean_interval


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
