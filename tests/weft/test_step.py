"""The whole step, with the four facts of the method on the path that training takes."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from weft.batch import Example, collate, reference_batch, split_entropies
from weft.entropy import reference_entropies
from weft.head import weighted_cross_entropy
from weft.method_config import MethodConfig
from weft.step import denoising_step

EOS = 1
LARGEST_BELOW_ONE = 1 - 2.0**-24
PATTERNS = list(itertools.product([False, True], repeat=3))
EXAMPLES = [
    Example("a", [5, 6], [7, 8, 9, EOS], [2.0, 0.0, 0.5, 0.1], [0.01]),
    Example("b", [5], [4, 7, EOS], [1.0, 3.0, 0.2], [0.02, 0.01]),
    Example("c", [], [3, 3, 8, 9, 9, EOS], [0.0, 0.1, 4.0, 0.2, 0.3, 0.4], [0.03]),
]


def make_batch(examples=EXAMPLES, **changes):
    options = {
        "seed": 0,
        "epoch": 0,
        "eps": 1e-3,
        "eos_policy": "random_tail",
        "tail_max": 6,
        "max_length": 40,
        "eos_token_id": EOS,
    }
    return collate(examples, **(options | changes))


def gradients(loss, denoiser):
    return torch.autograd.grad(loss, list(denoiser.parameters()))


def plain_sft(denoiser, batch):
    """Plain SFT written out: mask below t, cross-entropy of the masked tokens times 1/t."""
    # The same head as in the step: one with all logits at once differs in rounding.
    is_masked = batch.is_maskable & (batch.uniforms < batch.noise_level)
    noisy = batch.input_ids.masked_fill(is_masked, denoiser.mask_token_id)
    hidden = denoiser.hidden_states(noisy, batch.attention_mask)
    weights = (1 / batch.noise_level).expand_as(is_masked)[is_masked]
    loss_sum, _ = weighted_cross_entropy(
        hidden[is_masked], batch.input_ids[is_masked], weights, denoiser.head, chunk_size=8192
    )
    return loss_sum


@pytest.mark.parametrize("scope", ["sequence", "batch", "dataset"])
@pytest.mark.parametrize("tail", ["one", "entropy"])
@pytest.mark.parametrize("weighting", ["paper", "elbo"])
def test_gamma_zero_is_plain_sft_bit_for_bit(pooling_denoiser, scope, tail, weighting):
    """Fact 1, value and gradient, over several noise draws."""
    denoiser = pooling_denoiser()
    method = MethodConfig(gamma=0, beta_ref=scope, tail=tail, weighting=weighting)
    for epoch in range(4):
        batch = make_batch(epoch=epoch)
        sums = denoising_step(denoiser, batch, method)
        expected = plain_sft(denoiser, batch)
        assert float(expected.detach()) > 0
        assert torch.equal(sums.loss_sum, expected)
        assert int(sums.normalizer_count) == int(batch.is_maskable.sum())
        wanted = gradients(expected, denoiser)
        for got, want in zip(gradients(sums.loss_sum, denoiser), wanted, strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("weighting", ["paper", "elbo"])
def test_equal_entropies_are_plain_sft_within_rounding(pooling_denoiser, weighting):
    """Fact 1, its second half."""
    denoiser = pooling_denoiser()
    equal = [
        dataclasses.replace(e, entropy=[0.7] * len(e.response_ids), tail_entropy=[0.7])
        for e in EXAMPLES
    ]
    batch = make_batch(equal)
    for tail in ("one", "entropy"):
        sums = denoising_step(denoiser, batch, MethodConfig(weighting=weighting, tail=tail))
        expected = plain_sft(denoiser, batch)
        assert torch.allclose(sums.loss_sum, expected, rtol=1e-5)
        wanted = gradients(expected, denoiser)
        for got, want in zip(gradients(sums.loss_sum, denoiser), wanted, strict=True):
            assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)


ENTROPY = [0.25, 1.0, 2.25]
RATES = [0.5, 1.0, 1.5]  # square roots of the above; their mean is 1
TARGETS = [2, 3, EOS]
EXACT = {"gamma": 0.5, "rate_min": 0.0, "rate_max": 100.0}


def toy_batch(t, pattern):
    """One sequence at noise level ``t`` whose uniforms give exactly the mask ``pattern``."""
    batch = make_batch([Example("x", [4], TARGETS, ENTROPY)], eos_policy="one")
    batch.noise_level = torch.tensor([[t]])
    batch.uniforms[0, 1:] = torch.where(torch.tensor(pattern), 0.0, LARGEST_BELOW_ONE)
    return batch


def expected_step_loss(denoiser, t, method):
    """Expectation of the step's loss over all masks at level ``t``, with its graph."""
    t = float(torch.tensor(t, dtype=torch.float32))
    total = torch.zeros((), dtype=torch.float64)
    for pattern in PATTERNS:
        levels = [1 - (1 - t) ** rate for rate in RATES]
        factors = [p if m else 1 - p for p, m in zip(levels, pattern, strict=True)]
        sums = denoising_step(denoiser, toy_batch(t, pattern), method)
        assert int(sums.metric_sums()["num_masked"]) == sum(pattern)
        total = total + math.prod(factors) * sums.loss_sum.double()
    return total


def toy_table(same_in_every_context=False):
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(8, 3, 6, generator=generator) * 2
    return table[:1].repeat(8, 1, 1) if same_in_every_context else table


def table_nll(denoiser):
    """[8, 3] negative log-likelihoods by mask pattern (bit i: token i masked) and token."""
    targets = torch.tensor(TARGETS).expand(8, 3).reshape(-1)
    table = denoiser.table.reshape(24, -1)
    return F.cross_entropy(table, targets, reduction="none").double().reshape(8, 3)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_paper_gives_every_token_the_weight_one(table_denoiser, t):
    """Fact 2 on the whole step: without context the expected loss is the sum of all losses."""
    denoiser = table_denoiser(toy_table(same_in_every_context=True))
    loss = expected_step_loss(denoiser, t, MethodConfig(**EXACT))
    expected = table_nll(denoiser)[0].sum()
    assert torch.allclose(loss, expected, rtol=1e-5)  # float32
    (gradient,) = gradients(loss, denoiser)
    (wanted,) = gradients(expected, denoiser)
    # The expectation spreads a token's gradient over the contexts; together they are the whole.
    assert torch.allclose(gradient.sum(dim=0), wanted.sum(dim=0), rtol=1e-4, atol=1e-5)


def negative_elbo(nll):
    """By the order of absorption, an exponential race of rates ``RATES``; see test_objective."""
    total = torch.zeros((), dtype=torch.float64)
    for order in itertools.permutations(range(3)):
        probability = math.prod(
            RATES[token] / sum(RATES[other] for other in order[place:])
            for place, token in enumerate(order)
        )
        for place, token in enumerate(order):
            masked = sum(2**i for i in order[: place + 1])
            total = total + probability * nll[masked, token]
    return total


def integrated_step_loss(denoiser, method):
    """Over t in (0, 1); exact under ``elbo`` with 1 - t = y ** 2, see test_objective."""
    nodes, node_weights = np.polynomial.legendre.leggauss(8)
    return sum(
        weight * 2 * node * expected_step_loss(denoiser, 1 - node**2, method)
        for node, weight in zip((nodes + 1) / 2, node_weights / 2, strict=True)
    )


def test_elbo_step_has_the_closed_form_nelbo_as_its_expectation(table_denoiser):
    """Fact 3 on the whole step, value and gradient, for unequal rates.

    float32 holds 1 - t of the largest node (4e-4) to 7e-5, hence the tolerance.
    """
    denoiser = table_denoiser(toy_table())
    loss = integrated_step_loss(denoiser, MethodConfig(weighting="elbo", **EXACT))
    expected = negative_elbo(table_nll(denoiser))
    assert torch.allclose(loss, expected, rtol=1e-4)
    (gradient,) = gradients(loss, denoiser)
    (wanted,) = gradients(expected, denoiser)
    assert torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-5)
    paper = integrated_step_loss(denoiser, MethodConfig(weighting="paper", **EXACT))
    assert abs(float((paper / expected).detach()) - 1) > 0.01


@pytest.mark.parametrize("weighting", ["paper", "elbo", "partial"])
@pytest.mark.parametrize("t", [1e-3, 0.5, LARGEST_BELOW_ONE, 1.0])
def test_rate_zero_and_t_near_one_stay_finite(table_denoiser, weighting, t):
    """Fact 4: no NaN, no infinity, a finite gradient, whatever the mask."""
    denoiser = table_denoiser(toy_table())
    method = MethodConfig(weighting=weighting, rate_min=0.0, rate_max=100.0)
    for pattern in PATTERNS:
        batch = toy_batch(t, pattern)
        batch.entropy = torch.tensor([[0.0, 0.0, 1e-12, 4.0]])
        sums = denoising_step(denoiser, batch, method)
        (gradient,) = gradients(sums.loss_sum, denoiser)
        assert bool(sums.loss_sum.isfinite())
        assert bool(gradient.isfinite().all())
        # The token without entropy is never masked and learns nothing.
        assert not bool(gradient[:, 0].any())


@pytest.mark.parametrize("normalizer", ["tokens", "sequence", "masked"])
def test_sums_add_up_over_micro_batches(pooling_denoiser, normalizer):
    denoiser, method = pooling_denoiser(), MethodConfig(normalizer=normalizer)
    whole = denoising_step(denoiser, make_batch(), method).metric_sums()
    parts = [denoising_step(denoiser, make_batch([e]), method).metric_sums() for e in EXAMPLES]
    for name, value in whole.items():
        total = torch.stack([part[name] for part in parts]).sum(dim=0)
        assert torch.allclose(total.double(), value.double(), rtol=1e-5), name


def test_chunks_change_neither_value_nor_gradient(pooling_denoiser):
    denoiser, batch, method = pooling_denoiser(), make_batch(), MethodConfig()
    dense = denoising_step(denoiser, batch, method).loss_sum
    chunked = denoising_step(denoiser, batch, method, chunk_rows=2).loss_sum
    assert torch.allclose(dense, chunked, rtol=1e-5)
    wanted = gradients(dense, denoiser)
    for got, want in zip(gradients(chunked, denoiser), wanted, strict=True):
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-5)


def with_reference_entropies(denoiser, examples, tail):
    """The examples with frozen entropies of ``denoiser`` on a canvas with ``tail`` further EOS."""
    canvas = reference_batch(examples, tail=tail, max_length=40, eos_token_id=EOS)
    entropy = reference_entropies(
        denoiser, canvas.input_ids, canvas.attention_mask, canvas.is_maskable
    )
    return [
        dataclasses.replace(example, entropy=response.tolist(), tail_entropy=rest.tolist())
        for example, (response, rest) in zip(
            examples, split_entropies(entropy, canvas), strict=True
        )
    ]


@pytest.mark.parametrize("tail", ["one", "entropy"])
def test_online_entropies_of_the_same_weights_are_the_frozen_ones(pooling_denoiser, tail):
    denoiser = pooling_denoiser(dropout=0.0)
    bare = [dataclasses.replace(e, entropy=None, tail_entropy=None) for e in EXAMPLES]
    # max_length leaves the examples the same tail of 4 in both canvases.
    frozen_examples = with_reference_entropies(denoiser, bare[:1], 4)
    options = {"eos_policy": "pad_to_max", "max_length": 10}
    frozen = denoising_step(
        denoiser, make_batch(frozen_examples, **options), MethodConfig(tail=tail)
    )
    online = denoising_step(
        denoiser, make_batch(bare[:1], **options), MethodConfig(tail=tail, entropies="online")
    )
    assert float(frozen.loss_sum.detach()) > 0
    assert torch.equal(frozen.loss_sum, online.loss_sum)
    wanted = gradients(frozen.loss_sum, denoiser)
    for got, want in zip(gradients(online.loss_sum, denoiser), wanted, strict=True):
        assert torch.equal(got, want)


def test_online_entropies_follow_the_weights(pooling_denoiser):
    first, second = pooling_denoiser(seed=0), pooling_denoiser(seed=1)
    examples = with_reference_entropies(first, EXAMPLES, 0)
    batch = make_batch(examples, eos_policy="one")
    frozen = denoising_step(second, batch, MethodConfig())
    online = denoising_step(second, batch, MethodConfig(entropies="online"))
    recomputed = make_batch(with_reference_entropies(second, EXAMPLES, 0), eos_policy="one")
    again = denoising_step(second, recomputed, MethodConfig())
    assert torch.allclose(online.loss_sum, again.loss_sum, rtol=1e-5)
    # Far beyond rounding: those of the first denoiser are others.
    assert not torch.allclose(frozen.loss_sum, online.loss_sum, rtol=1e-3)


@pytest.mark.parametrize("entropies", ["frozen", "online"])
def test_every_parameter_gets_its_gradient_under_autocast(pooling_denoiser, entropies):
    """The pass without gradient leaves no detached copies of weights in autocast's cache."""
    denoiser = pooling_denoiser()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sums = denoising_step(denoiser, make_batch(), MethodConfig(entropies=entropies))
    sums.loss_sum.backward()
    assert sums.loss_sum.dtype == torch.float32
    for parameter in denoiser.parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any())


def test_a_batch_without_a_masked_token_has_a_zero_gradient_everywhere(pooling_denoiser):
    denoiser, batch = pooling_denoiser(), make_batch()
    batch.uniforms.fill_(LARGEST_BELOW_ONE)
    sums = denoising_step(denoiser, batch, MethodConfig())
    sums.loss_sum.backward()
    assert float(sums.loss_sum.detach()) == 0.0
    assert all(not bool(parameter.grad.any()) for parameter in denoiser.parameters())


def test_padding_changes_nothing(pooling_denoiser):
    denoiser, method = pooling_denoiser(), MethodConfig()
    batch = make_batch(EXAMPLES[1:2])
    padded = make_batch(EXAMPLES[1:2])
    for field in dataclasses.fields(padded):
        value = getattr(padded, field.name)
        if isinstance(value, torch.Tensor) and value.shape[1] > 1:
            setattr(padded, field.name, F.pad(value, (0, 5)))
    padded.is_padded = True
    expected = denoising_step(denoiser, batch, method).loss_sum
    got = denoising_step(denoiser, padded, method).loss_sum
    assert torch.allclose(got, expected, rtol=1e-6)


def test_metrics_by_hand(table_denoiser):
    denoiser = table_denoiser(toy_table())
    method = MethodConfig(rate_min=0.6, rate_max=1.2)
    sums = denoising_step(denoiser, toy_batch(0.37, (True, False, True)), method).metric_sums()
    nll = table_nll(denoiser)[0b101].detach()
    assert float(sums["nll_sum"]) == pytest.approx(float(nll[0] + nll[2]), rel=1e-5)
    counts = {
        "num_masked": 2,
        "num_maskable": 3,
        "num_tokens": 4,
        "num_rated": 3,
        "num_clamped": 2,
        "normalizer_count": 3,
    }
    assert {name: int(sums[name]) for name in counts} == counts
    assert sums["bin_num_masked"].tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert float(sums["bin_nll_sum"][3]) == pytest.approx(float(sums["nll_sum"]), rel=1e-6)
    assert not any(value.requires_grad for value in sums.values())
    levels = [1 - (1 - 0.37) ** rate for rate in (0.6, 1.2)]
    weighted = float(nll[0]) / levels[0] + float(nll[2]) / levels[1]
    assert float(sums["loss_sum"]) == pytest.approx(weighted, rel=1e-5)


def test_missing_entropies_are_refused_unless_they_are_not_needed(pooling_denoiser):
    denoiser = pooling_denoiser()
    bare = make_batch([Example("x", [5], [7, EOS])])
    with pytest.raises(ValueError, match="reference pass"):
        denoising_step(denoiser, bare, MethodConfig())
    denoising_step(denoiser, bare, MethodConfig(gamma=0))
    denoising_step(denoiser, bare, MethodConfig(entropies="online"))
    no_tail = make_batch([Example("x", [5], [7, EOS], [1.0, 2.0])], eos_policy="pad_to_max")
    denoising_step(denoiser, no_tail, MethodConfig(tail="one"))
    with pytest.raises(ValueError, match="tail_entropy"):
        denoising_step(denoiser, no_tail, MethodConfig(tail="entropy"))
