import math

import pytest
import torch

from weft.method_config import MethodConfig
from weft.rates import mean_beta, relative_rates, token_betas

ENTROPY = torch.tensor([[9.0, 0.25, 1.0, 4.0, 9.0], [9.0, 4.0, 4.0, 0.0, 9.0]])
IS_MASKABLE = torch.tensor([[False, True, True, True, False], [False, True, True, True, True]])
IS_TAIL = torch.tensor([[False, False, False, True, False], [False, False, False, False, True]])


def rates(method, entropy=ENTROPY, **options):
    return relative_rates(entropy, IS_MASKABLE, IS_TAIL, method, **options)


def test_token_betas_by_hand():
    assert token_betas(torch.tensor([0.0, 0.25, 4.0]), 0.5).tolist() == [0.0, 0.5, 2.0]


def test_token_betas_of_gamma_zero_are_exactly_one():
    assert token_betas(torch.tensor([0.0, 1e-30, 0.3, 50.0]), 0.0).tolist() == [1.0] * 4


@pytest.mark.parametrize("bad", [-1e-6, math.nan, math.inf, -math.inf])
def test_invalid_entropies_are_refused(bad):
    entropy = ENTROPY.clone()
    entropy[1, 2] = bad
    with pytest.raises(ValueError, match="entropies"):
        rates(MethodConfig(), entropy)


def test_entropies_outside_the_formula_are_not_looked_at():
    entropy = ENTROPY.clone()
    entropy[0, 0] = entropy[0, 3] = entropy[0, 4] = math.nan
    expected = rates(MethodConfig()).relative
    assert torch.equal(rates(MethodConfig(), entropy).relative, expected)


def test_relative_rates_of_scope_sequence_by_hand():
    got = rates(MethodConfig(rate_min=0.0)).relative
    # Row 0: betas 0.5, 1 of mean 0.75; row 1: betas 2, 2, 0 of mean 4/3; tail and others 1.
    expected = [[1, 0.5 / 0.75, 1 / 0.75, 1, 1], [1, 1.5, 1.5, 0, 1]]
    assert torch.allclose(got, torch.tensor(expected))


def test_relative_rates_of_scope_batch_by_hand():
    got = rates(MethodConfig(beta_ref="batch", rate_min=0.0)).relative
    mean = (0.5 + 1 + 2 + 2 + 0) / 5
    expected = [[1, 0.5 / mean, 1 / mean, 1, 1], [1, 2 / mean, 2 / mean, 0, 1]]
    assert torch.allclose(got, torch.tensor(expected))


def test_relative_rates_of_scope_dataset_by_hand():
    method = MethodConfig(beta_ref="dataset", rate_min=0.0)
    got = rates(method, dataset_beta_ref=2.0).relative
    assert torch.allclose(got, torch.tensor([[1, 0.25, 0.5, 1, 1], [1, 1.0, 1.0, 0, 1]]))


@pytest.mark.parametrize("missing", [None, -1.0, math.nan, math.inf])
def test_scope_dataset_refuses_a_missing_reference(missing):
    with pytest.raises(ValueError, match="dataset_beta_ref"):
        rates(MethodConfig(beta_ref="dataset"), dataset_beta_ref=missing)


def test_tail_by_entropy_takes_part_in_the_mean():
    got = rates(MethodConfig(tail="entropy", rate_min=0.0)).relative
    mean0, mean1 = (0.5 + 1 + 2) / 3, (2 + 2 + 0 + 3) / 4
    expected = [[1, 0.5 / mean0, 1 / mean0, 2 / mean0, 1], [1, 2 / mean1, 2 / mean1, 0, 3 / mean1]]
    assert torch.allclose(got, torch.tensor(expected))


def test_clamps_bite_and_are_counted():
    result = rates(MethodConfig(rate_min=0.9, rate_max=1.4))
    expected = [[1, 0.9, 1 / 0.75, 1, 1], [1, 1.4, 1.4, 0.9, 1]]
    assert torch.allclose(result.relative, torch.tensor(expected))
    assert int(result.num_clamped_low) == 2
    assert int(result.num_clamped_high) == 2
    assert int(result.num_rated) == int((IS_MASKABLE & ~IS_TAIL).sum())


@pytest.mark.parametrize("scope", ["sequence", "batch", "dataset"])
@pytest.mark.parametrize("tail", ["one", "entropy"])
def test_gamma_zero_gives_exactly_ones_without_any_entropy(scope, tail):
    method = MethodConfig(gamma=0, beta_ref=scope, tail=tail)
    result = rates(method, torch.full_like(ENTROPY, math.nan))
    assert torch.equal(result.relative, torch.ones_like(ENTROPY))
    assert int(result.num_clamped_low + result.num_clamped_high + result.num_rated) == 0


def test_equal_entropies_give_one_within_rounding():
    result = rates(MethodConfig(), torch.full_like(ENTROPY, 0.37)).relative
    assert torch.allclose(result, torch.ones_like(result), rtol=1e-6)  # a few float32 roundings


@pytest.mark.parametrize("scope", ["sequence", "batch", "dataset"])
def test_a_sequence_without_any_entropy_has_rate_one(scope):
    result = rates(MethodConfig(beta_ref=scope), torch.zeros_like(ENTROPY), dataset_beta_ref=0.0)
    assert torch.equal(result.relative, torch.ones_like(ENTROPY))
    assert int(result.num_clamped_low) == 0


def test_mean_relative_rate_of_a_sequence_is_one():
    generator = torch.Generator().manual_seed(0)
    entropy = torch.rand(4, 50, generator=generator) * 5
    everything = torch.ones(4, 50, dtype=torch.bool)
    method = MethodConfig(rate_min=0.0, rate_max=1e6)
    result = relative_rates(entropy, everything, ~everything, method).relative
    assert torch.allclose(result.mean(dim=1), torch.ones(4), rtol=1e-5)


def test_mean_beta_streams_to_the_mean_over_all_tokens():
    parts = [torch.tensor([4.0, 0.0]), torch.tensor([[1.0], [9.0], [0.25]]), torch.zeros(0)]
    assert mean_beta(parts, 0.5) == pytest.approx((2 + 0 + 1 + 3 + 0.5) / 5, rel=1e-12)


def test_mean_beta_refuses_nothing_and_nonsense():
    with pytest.raises(ValueError, match="at least one"):
        mean_beta([torch.zeros(0)], 0.5)
    with pytest.raises(ValueError, match="entropies"):
        mean_beta([torch.tensor([-1.0])], 0.5)


@pytest.mark.parametrize(
    "setting",
    [
        {"gamma": -0.5},
        {"gamma": math.nan},
        {"rate_min": -0.1},
        {"rate_min": 1.5},
        {"rate_max": 0.5},
        {"alpha": 2.0},
        {"beta_ref": "sentence"},
        {"weighting": "papper"},
        {"normalizer": "token"},
        {"tail": "two"},
        {"entropies": "refresh"},
    ],
)
def test_method_config_names_the_wrong_setting(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MethodConfig(**setting)
