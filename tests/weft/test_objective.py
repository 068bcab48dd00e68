"""The weights and normalisers, with facts 2 to 4 of the method in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from weft.forward_process import token_noise_levels
from weft.objective import row_weights, token_weights

NUM_TOKENS = 3
PATTERNS = list(itertools.product([False, True], repeat=NUM_TOKENS))
RATES = torch.tensor([[0.5, 1.0, 1.5]], dtype=torch.float64)


def weights_at(t, rates=RATES, **options):
    t = torch.tensor([[t]], dtype=rates.dtype)
    levels = token_noise_levels(t, rates)
    return token_weights(t, rates, levels, **options)[0], levels[0]


def pattern_probability(levels, pattern):
    masked = torch.tensor(pattern)
    return torch.where(masked, levels, 1 - levels).prod()


def nll_table(seed=0):
    """Negative log-likelihood of each token under each mask pattern, as a leaf: [8, 3]."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.rand(8, NUM_TOKENS, generator=generator, dtype=torch.float64) * 5
    return table.requires_grad_()


def expected_loss_at(t, table, **options):
    """Expectation over all masks at level ``t`` of ``sum_i m_i w_i nll_i``."""
    weights, levels = weights_at(t, **options)
    losses = [
        pattern_probability(levels, pattern) * (weights * table[row])[list(pattern)].sum()
        for row, pattern in enumerate(PATTERNS)
    ]
    return torch.stack(losses).sum()


def integrated_loss(table, **options):
    """Integral of ``expected_loss_at`` over ``t`` in (0, 1).

    With ``1 - t = y ** 2`` and these rates the integrand under ``elbo`` is a polynomial in y of
    degree below 12, which 16 Gauss-Legendre nodes integrate exactly.
    """
    nodes, node_weights = np.polynomial.legendre.leggauss(16)
    total = torch.zeros((), dtype=torch.float64)
    for node, weight in zip((nodes + 1) / 2, node_weights / 2, strict=True):
        total = total + weight * 2 * node * expected_loss_at(1 - node**2, table, **options)
    return total


def negative_elbo(table, rates=(0.5, 1.0, 1.5)):
    """NELBO from the order in which tokens are absorbed, without weights, levels or integrals.

    Token i is absorbed after an exponential time of rate ``r_i``, so an order has the probability
    of an exponential race. Going back, a token is predicted while those absorbed no later than
    itself are masked.
    """
    total = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(range(NUM_TOKENS)):
        probability = math.prod(
            rates[token] / sum(rates[other] for other in order[place:])
            for place, token in enumerate(order)
        )
        for place, token in enumerate(order):
            masked = tuple(i in order[: place + 1] for i in range(NUM_TOKENS))
            total = total + probability * table[PATTERNS.index(masked), token]
    return total


@pytest.mark.parametrize("t", [1e-3, 0.3, 0.9, 0.999])
def test_expected_coefficient_is_one_under_paper_whatever_the_entropy(t):
    """Fact 2: the sum over masks of P(mask) * m_i * w_i is 1 for every token."""
    weights, levels = weights_at(t, weighting="paper")
    coefficients = torch.zeros(NUM_TOKENS, dtype=torch.float64)
    for pattern in PATTERNS:
        masked = torch.tensor(pattern, dtype=torch.float64)
        coefficients += pattern_probability(levels, pattern) * masked * weights
    assert torch.allclose(coefficients, torch.ones_like(coefficients), rtol=1e-12)


@pytest.mark.parametrize("t", [0.05, 0.6])
def test_paper_learns_context_free_tokens_with_equal_weight(t):
    """Fact 2, value and gradient: without context the loss is the plain sum of all losses."""
    one_row = nll_table()[0].detach().requires_grad_()
    loss = expected_loss_at(t, one_row.expand(8, NUM_TOKENS), weighting="paper")
    assert torch.allclose(loss, one_row.sum(), rtol=1e-12)
    (gradient,) = torch.autograd.grad(loss, one_row)
    assert torch.allclose(gradient, torch.ones_like(gradient), rtol=1e-12)


def test_partial_favours_high_rates_and_alpha_one_is_paper():
    partial, levels = weights_at(0.4, weighting="partial", alpha=0.5)
    coefficients = partial * levels
    assert torch.allclose(coefficients, levels.sqrt(), rtol=1e-12)
    assert bool((coefficients.diff() > 0).all())
    same, _ = weights_at(0.4, weighting="partial", alpha=1.0)
    assert torch.equal(same, weights_at(0.4, weighting="paper")[0])
    none, _ = weights_at(0.4, weighting="partial", alpha=0.0)
    assert torch.equal(none, torch.ones_like(none))


def test_elbo_expectation_is_the_closed_form_nelbo_for_unequal_rates():
    """Fact 3, value and gradient (float64; the quadrature is exact)."""
    table = nll_table()
    loss, expected = integrated_loss(table, weighting="elbo"), negative_elbo(table)
    assert torch.allclose(loss, expected, rtol=1e-11)
    (gradient,) = torch.autograd.grad(loss, table)
    (wanted,) = torch.autograd.grad(expected, table)
    assert torch.allclose(gradient, wanted, rtol=1e-11, atol=1e-12)


def test_other_weightings_are_not_the_nelbo_for_unequal_rates():
    """What the closed form can tell apart: 1 % is a hundred million times its tolerance."""
    table = nll_table()
    expected = negative_elbo(table).item()
    for options in ({"weighting": "paper"}, {"weighting": "partial", "alpha": 0.5}):
        assert abs(integrated_loss(table, **options).item() / expected - 1) > 0.01
    assert abs(negative_elbo(table, [1.5, 1.0, 0.5]).item() / expected - 1) > 0.01


def test_all_any_order_weightings_agree_for_equal_rates():
    table = nll_table()
    ones = torch.ones(1, NUM_TOKENS, dtype=torch.float64)
    expected = negative_elbo(table, [1.0] * NUM_TOKENS)
    for weighting in ("paper", "elbo"):
        loss = integrated_loss(table, rates=ones, weighting=weighting)
        assert torch.allclose(loss, expected, rtol=1e-11)


@pytest.mark.parametrize("weighting", ["paper", "elbo"])
def test_rate_one_weighs_one_over_t_bit_for_bit(weighting):
    t = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)) * 0.999 + 1e-3
    ones = torch.ones(500, 4)
    levels = token_noise_levels(t, ones)
    assert torch.equal(token_weights(t, ones, levels, weighting=weighting), (1 / t).expand(500, 4))


@pytest.mark.parametrize("weighting", ["paper", "elbo", "partial"])
@pytest.mark.parametrize("t", [1e-30, 1e-3, 0.5, 1 - 2.0**-24, 1.0])
def test_weights_are_finite_at_the_edges(weighting, t):
    """Fact 4: rates of 0 and next to it, t near 0 and up to 1."""
    rates = torch.tensor([[0.0, 1e-45, 1e-38, 1e-30, 1e-3, 0.5, 1.0, 10.0, 1e4]])
    weights, levels = weights_at(t, rates, weighting=weighting, alpha=0.5)
    assert bool(weights.isfinite().all())
    assert bool((weights >= 0).all())
    assert float(weights[0]) == 0.0
    assert bool((weights * levels).isfinite().all())


def test_elbo_weight_by_hand():
    # t = 3/4, r = 2: dt_i/dt = 2 * (1/4) = 1/2 and t_i = 15/16; r = 1/2: 1/2 * 2 = 1 and 1/2.
    rates = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    weights, _ = weights_at(0.75, rates, weighting="elbo")
    assert torch.allclose(weights, torch.tensor([8 / 15, 2.0], dtype=torch.float64), rtol=1e-12)


WEIGHTS = torch.tensor([[9.0, 1.0, 9.0, 2.0], [9.0, 9.0, 4.0, 9.0]])
IS_MASKED = torch.tensor([[False, True, False, True], [False, False, True, False]])
IS_MASKABLE = torch.tensor([[False, True, True, True], [False, False, True, True]])


@pytest.mark.parametrize(
    ("normalizer", "weights", "count"),
    [("tokens", [1, 2, 4], 5), ("sequence", [1 / 3, 2 / 3, 4 / 2], 2), ("masked", [1, 2, 4], 3)],
)
def test_normalizers_by_hand(normalizer, weights, count):
    rows, got_count = row_weights(WEIGHTS, IS_MASKED, IS_MASKABLE, normalizer)
    assert rows.tolist() == pytest.approx(weights, rel=1e-6)
    assert int(got_count) == count


@pytest.mark.parametrize("normalizer", ["tokens", "sequence", "masked"])
def test_normalizers_do_not_depend_on_the_micro_batches(normalizer):
    whole, whole_count = row_weights(WEIGHTS, IS_MASKED, IS_MASKABLE, normalizer)
    parts = [
        row_weights(WEIGHTS[row], IS_MASKED[row], IS_MASKABLE[row], normalizer)
        for row in (slice(0, 1), slice(1, 2))
    ]
    assert torch.equal(torch.cat([rows for rows, _ in parts]), whole)
    assert sum(int(count) for _, count in parts) == int(whole_count)


@pytest.mark.parametrize("normalizer", ["tokens", "sequence", "masked"])
def test_normalizers_without_a_masked_token(normalizer):
    nothing = torch.zeros_like(IS_MASKED)
    rows, count = row_weights(WEIGHTS, nothing, IS_MASKABLE, normalizer)
    assert rows.shape == (0,)
    assert int(count) == {"tokens": 5, "sequence": 2, "masked": 0}[normalizer]
