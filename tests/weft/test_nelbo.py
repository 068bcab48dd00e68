import itertools
import math

import numpy as np
import pytest
import torch

from tests.weft.test_step import PATTERNS, TARGETS, make_batch, table_nll, toy_table
from weft.batch import Example
from weft.nelbo import even_levels, nelbo_sums

IDS = [f"example-{number}" for number in range(40)]


def test_even_levels_are_one_in_each_part_and_keyed():
    levels = even_levels(0, 0, IDS, eps=0.1)
    parts = ((levels - 0.1) / 0.9 * 40).floor().sort().values
    assert torch.equal(parts, torch.arange(40.0))
    assert torch.equal(levels, even_levels(0, 0, IDS, eps=0.1))
    for other in (even_levels(1, 0, IDS, eps=0.1), even_levels(0, 1, IDS, eps=0.1)):
        assert not torch.equal(levels, other)


def test_each_even_level_is_uniform():
    first = torch.tensor(
        [float(even_levels(0, draw, IDS[:3], eps=1e-3)[0]) for draw in range(3000)]
    )
    counts = torch.histc(first, bins=10, min=0.0, max=1.0)
    # Binomial with a deviation of 16 about 300; five of them.
    assert (counts - 300).abs().max() < 82


def test_the_expected_quotient_is_the_closed_form_nelbo(table_denoiser):
    """By enumeration of masks, and of levels by Gauss-Legendre quadrature: a polynomial in t."""
    denoiser = table_denoiser(toy_table())
    nll = table_nll(denoiser).detach()
    # Of the last k tokens to be revealed each order is alike: E = 1/N! * sum over orders.
    exact = 0.0
    for order in itertools.permutations(range(3)):
        masked = {0, 1, 2}
        for place in order:
            exact += float(nll[sum(1 << i for i in masked), place]) / math.factorial(3)
            masked -= {place}
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(6))
    total = 0.0
    for t, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        for pattern in PATTERNS:
            batch = make_batch([Example("x", [4], TARGETS)], eos_policy="one")
            batch.noise_level = torch.tensor([[float(t)]])
            batch.uniforms[0, 1:] = torch.where(torch.tensor(pattern), 0.0, 1 - 2.0**-24)
            chance = math.prod(float(t) if m else 1 - float(t) for m in pattern)
            loss_sum, count = nelbo_sums(denoiser, batch)
            assert int(count) == 3
            total += float(weight) * chance * float(loss_sum)
    assert total == pytest.approx(exact, rel=1e-5)
