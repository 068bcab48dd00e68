"""Entropies against the frozen ones: measures worked out by hand."""

import math

import pyarrow as pa
import pytest

from pipeline import drift
from pipeline.config import RatesSection, RunConfig
from pipeline.drift import compare
from pipeline.errors import ArtifactError, ConfigError
from pipeline.reference.entropies import ENTROPY_SCHEMA

CONFIG = RunConfig(rates=RatesSection(gamma=1.0, rate_min=0.5, rate_max=2.0))


def table(*rows):
    values = [{"example_id": str(n), "entropy": row} for n, row in enumerate(rows)]
    return pa.Table.from_pylist(values, schema=ENTROPY_SCHEMA)


def test_the_same_entropies_have_not_drifted():
    same = table([1.0, 2.0, 3.0], [0.5, 0.25])
    found = compare(same, same, CONFIG)
    assert found["entropy"] == pytest.approx(6.75 / 5)
    assert (found["change"], found["absolute_change"], found["rate_change"]) == (0, 0, 0)
    assert found["rank_correlation"] == pytest.approx(1)


def test_measures_by_hand():
    # Ranks 1 2 3 against 3 1 2: differences -2 1 1, rho = 1 - 6 * 6 / (3 * 8) = -1/2.
    # Rates 1/2 1 3/2 against 3/2 1/2 1: changes 1, 1/2, 1/2.
    found = compare(table([1.0, 2.0, 3.0]), table([3.0, 1.0, 2.0]), CONFIG)
    assert found["rank_correlation"] == pytest.approx(-0.5)
    assert found["change"] == pytest.approx(0)
    assert found["absolute_change"] == pytest.approx(4 / 3)
    assert found["rate_change"] == pytest.approx(2 / 3)


def test_twice_the_entropies_change_no_rate():
    found = compare(table([1.0, 2.0, 3.0]), table([2.0, 4.0, 6.0]), CONFIG)
    assert found["change"] == pytest.approx(2)
    assert found["rate_change"] == 0
    assert found["rank_correlation"] == pytest.approx(1)


def test_rates_are_clamped_before_they_are_compared():
    # Means 4 and 8: rates 1/4, 7/4 and 1/8, 15/8; clamped from below to 1/2 both.
    found = compare(table([1.0, 7.0]), table([1.0, 15.0]), CONFIG)
    assert found["rate_change"] == pytest.approx((0 + 1 / 8) / 2)


def test_rows_that_cannot_be_compared_are_left_out():
    frozen = table([1.0, 2.0], None, [1.0, 1.0], [2.0, 3.0])
    found = compare(frozen, table([2.0, 1.0], [1.0, 2.0], [3.0, 1.0], None), CONFIG)
    assert found["num_examples"] == 2
    assert found["rank_correlation"] == pytest.approx(-1)  # the third has no order to begin with
    with pytest.raises(ArtifactError, match="not one example"):
        compare(table(None), table([1.0]), CONFIG)
    assert math.isnan(compare(table([1.0]), table([2.0]), CONFIG)["rank_correlation"])


def test_a_drift_of_nothing_says_what_to_name():
    with pytest.raises(ConfigError, match=r"--drift\.checkpoint names a training"):
        drift.run(RunConfig())
