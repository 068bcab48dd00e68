"""Metric sums and the values made of them."""

import pytest
import torch

from pipeline.train.metrics import add_sums, summarize


def sums(**changes: object) -> dict[str, torch.Tensor]:
    values = {
        "loss_sum": 12.0,
        "normalizer_count": 8.0,
        "nll_sum": 6.0,
        "num_masked": 4.0,
        "num_maskable": 16.0,
        "num_rated": 8.0,
        "num_clamped": 2.0,
        "num_tokens": 40.0,
        "num_extra_tokens": 24.0,
        "bin_nll_sum": [1.0, 0.0, 5.0],
        "bin_num_masked": [2.0, 0.0, 2.0],
    } | changes
    return {name: torch.tensor(value) for name, value in values.items()}


def test_summarize_divides_each_sum_by_its_own_count() -> None:
    assert summarize(sums(), seconds=2.0) == {
        "loss": 1.5,
        "nll": 1.5,
        "mask_fraction": 0.25,
        "clamp_rate": 0.25,
        "tokens_per_second": 20.0,
        "tokens": 40.0,
        "extra_tokens": 24.0,
        "seconds": 2.0,
        "nll_bin_0": 0.5,
        "nll_bin_2": 2.5,  # bin 1 saw no token and has no value
    }


def test_summarize_has_a_value_when_nothing_was_masked() -> None:
    nothing = sums(num_masked=0.0, nll_sum=0.0, loss_sum=0.0, normalizer_count=0.0)
    values = summarize(nothing, seconds=0.0)
    assert values["loss"] == values["nll"] == 0.0
    assert values["tokens_per_second"] == 0.0


def test_add_sums_adds_by_name_and_keeps_what_only_one_has() -> None:
    first = {"a": torch.tensor(1.0), "b": torch.tensor([1.0, 2.0])}
    total = add_sums(first, {"b": torch.tensor([3.0, 4.0]), "c": torch.tensor(5.0)})
    assert {name: value.tolist() for name, value in total.items()} == {
        "a": 1.0,
        "b": [4.0, 6.0],
        "c": 5.0,
    }
    assert add_sums({}, first) == first


def test_metrics_of_parts_are_those_of_the_whole() -> None:
    part = sums()
    whole = summarize(add_sums(part, sums(nll_sum=2.0, bin_nll_sum=[1.0, 0.0, 1.0])), seconds=4.0)
    assert whole["nll"] == pytest.approx((6.0 + 2.0) / 8)
    assert whole["nll_bin_2"] == pytest.approx(6.0 / 4)
    assert whole["tokens_per_second"] == pytest.approx(20.0)
