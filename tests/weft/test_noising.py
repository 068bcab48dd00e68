"""Every objective against a case worked out by hand, and what they have in common."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.weft.test_step import EXAMPLES, TARGETS, make_batch
from weft.batch import Example
from weft.learnability import candidate_levels, choose
from weft.method_config import MethodConfig
from weft.noise import uniform_draws
from weft.objective import context_weights
from weft.step import denoising_step

OBJECTIVES = ["weft", "token_weights", "dft", "cart", "lift"]
ENTROPY = [0.25, 1.0, 2.25]  # relative rates 0.5, 1, 1.5
SFT = MethodConfig(gamma=0)


def batch_of(t, uniforms, margin=0.0):
    """A prompt of one token and a response of three, under exactly this noise."""
    batch = make_batch([Example("x", [4], TARGETS, ENTROPY)], eos_policy="one")
    batch.noise_level = torch.tensor([[t]])
    batch.margin = torch.tensor([[margin]])
    batch.uniforms[0, 1:] = torch.tensor(uniforms)
    return batch


def loss_of(sums):
    return float(sums.loss_sum.detach())


def table_of(nll):
    """[8, 3, 6] logits under which token i has the given nll, ``nll[pattern][i]``."""
    rows = torch.tensor(nll, dtype=torch.float32).reshape(-1, 3)
    rows = rows.expand(8, 3) if len(rows) == 1 else rows
    others = torch.log((1 - torch.exp(-rows)) / 5)
    table = others.unsqueeze(-1).repeat(1, 1, 6)
    for place, target in enumerate(TARGETS):
        table[:, place, target] = -rows[:, place]
    return table


def test_token_weights_masks_plainly_and_weighs_by_the_rate(table_denoiser):
    denoiser = table_denoiser(table_of([[1.0, 2.0, 3.0]]))
    batch = batch_of(0.5, [0.1, 0.2, 0.6])
    wide = {"rate_min": 0.0, "rate_max": 100.0}
    sums = denoising_step(denoiser, batch, MethodConfig(objective="token_weights", **wide))
    # The third is masked by weft alone, whose level for it is 1 - 0.5 ** 1.5 = 0.65.
    assert loss_of(sums) == pytest.approx((0.5 * 1.0 + 1.0 * 2.0) / 0.5, rel=1e-5)
    weft = denoising_step(denoiser, batch, MethodConfig(**wide))
    assert int(weft.metric_sums()["num_masked"]) == 3


def test_dft_scales_each_loss_by_the_probability_of_its_token(table_denoiser):
    denoiser = table_denoiser(table_of([[1.0, 2.0, 3.0]]))
    sums = denoising_step(denoiser, batch_of(0.5, [0.1, 0.2, 0.6]), MethodConfig(objective="dft"))
    expected = (math.exp(-1) * 1.0 + math.exp(-2) * 2.0) / 0.5
    assert loss_of(sums) == pytest.approx(expected, rel=1e-5)
    (gradient,) = torch.autograd.grad(sums.loss_sum, [denoiser.table])
    # The probability is a constant: that of the cross-entropy, times it.
    pattern = 0b011
    for place, target in enumerate(TARGETS[:2]):
        probs = denoiser.table[pattern, place].softmax(0).detach()
        wanted = probs[target] * (probs - F.one_hot(torch.tensor(target), 6)) / 0.5
        assert torch.allclose(gradient[pattern, place], wanted, atol=1e-6)


def test_cart_weighs_by_the_visible_tokens_around(table_denoiser):
    is_masked = torch.tensor([[False, True, True, False, True, False]])
    attention = torch.tensor([[True, True, True, True, True, False]])  # the last is padding
    weights = context_weights(is_masked, attention, p=0.5)
    # Token 1 sees 0 at distance 1 and 3 at distance 2; token 4 sees 3 at 1 and 0 at 4.
    expected = [0.0, (0.5 + 0.25) / 2, (0.25 + 0.5) / 2, 0.0, (0.5 + 0.5**4) / 2, 0.0]
    assert weights.tolist() == [pytest.approx(expected)]
    denoiser = table_denoiser(table_of([[1.0, 2.0, 3.0]]))
    method = MethodConfig(objective="cart", cart_p=0.5)
    sums = denoising_step(denoiser, batch_of(0.5, [0.1, 0.2, 0.6]), method)
    assert loss_of(sums) == pytest.approx(0.375 * (1.0 + 2.0), rel=1e-5)


def test_a_token_amid_long_context_has_the_weight_one_in_cart():
    is_masked = torch.zeros(1, 401, dtype=torch.bool)
    is_masked[0, 200] = True
    weights = context_weights(is_masked, torch.ones_like(is_masked), p=0.1)
    assert float(weights[0, 200]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("t", "uniforms", "chosen"),
    [
        (0.2, [0.1, 0.4, 0.6], 1),  # hard: level 0.2 + 0.1 + 0.7 / 2 = 0.65, all are candidates
        (0.2, [0.1, 0.7, 0.6], 2),  # the hardest is no candidate
        (0.8, [0.1, 0.96, 0.9], 0),  # easy: level 0.8 + 0.1 + 0.1 / 2 = 0.95
        (0.8, [0.93, 0.1, 0.9], 0),
        (0.5, [0.6, 0.4, 0.9], 1),  # between: the plain mask
    ],
)
def test_lift_learns_hard_tokens_at_low_noise_and_easy_ones_at_high(
    table_denoiser, t, uniforms, chosen
):
    nll = [[9.0, 9.0, 9.0]] * 8
    candidates = sum(1 << k for k, u in enumerate(uniforms) if u < {0.2: 0.65, 0.8: 0.95}.get(t, t))
    nll[candidates] = [0.5, 2.0, 1.0]  # what the first pass sees
    nll[1 << chosen] = [0.3, 0.4, 0.7]  # what is learned from
    sums = denoising_step(
        table_denoiser(table_of(nll)), batch_of(t, uniforms, 0.5), MethodConfig(objective="lift")
    )
    assert loss_of(sums) == pytest.approx([0.3, 0.4, 0.7][chosen] / t, rel=1e-5)
    assert int(sums.metric_sums()["num_extra_tokens"]) == (0 if t == 0.5 else 4)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8])
def test_lift_makes_one_pass_whether_or_not_a_row_asks_for_it(table_denoiser, t):
    """Under FSDP a pass is a common effort: a rank that left it out would let the others wait."""
    denoiser = table_denoiser(table_of([[1.0, 2.0, 3.0]]))
    calls = []
    hidden_states = denoiser.hidden_states
    denoiser.hidden_states = lambda *a, **k: calls.append(1) or hidden_states(*a, **k)
    denoising_step(denoiser, batch_of(t, [0.1, 0.4, 0.9]), MethodConfig(objective="lift"))
    assert len(calls) == 2


def test_lift_takes_as_many_tokens_as_sft_from_a_larger_mask():
    generator = torch.Generator().manual_seed(0)
    t, margin = (torch.rand(200, 1, generator=generator) for _ in range(2))
    levels = candidate_levels(t, margin)
    assert (levels > t).all()
    assert (levels <= 1).all()
    has_room = t < 0.9
    assert (levels[has_room] >= t[has_room] + 0.1).all()
    uniforms, nll = (torch.rand(200, 30, generator=generator) for _ in range(2))
    is_candidate = uniforms < levels
    chosen = choose(uniforms < t, is_candidate, nll, t)
    assert (chosen.sum(dim=1) == (uniforms < t).sum(dim=1)).all()
    assert not (chosen & ~is_candidate).any()


def test_margins_are_keyed_by_the_example():
    draws = uniform_draws(0, 3, ["a", "b"], "margin")
    assert torch.equal(uniform_draws(0, 3, ["b", "a"], "margin"), draws.flip(0))
    assert torch.equal(make_batch(epoch=3).margin[:2, 0], draws.float())
    assert draws[0] != uniform_draws(0, 3, ["a"], "noise_level")[0]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_batch_gives_the_sums_of_its_examples(pooling_denoiser, objective):
    denoiser, method = pooling_denoiser(), MethodConfig(objective=objective)
    for epoch in range(3):
        whole = denoising_step(denoiser, make_batch(epoch=epoch), method)
        parts = [denoising_step(denoiser, make_batch([e], epoch=epoch), method) for e in EXAMPLES]
        assert loss_of(whole) == pytest.approx(sum(loss_of(part) for part in parts), rel=1e-5)
        for name, total in whole.metric_sums().items():
            if name.startswith("num_") or name == "normalizer_count":
                assert int(total) == sum(int(part.metric_sums()[name]) for part in parts), name


@pytest.mark.parametrize("objective", ["token_weights", "dft", "cart", "lift"])
def test_all_but_weft_mask_as_many_tokens_as_sft_and_need_no_entropies(pooling_denoiser, objective):
    denoiser = pooling_denoiser()
    bare = [Example(e.example_id, e.prompt_ids, e.response_ids) for e in EXAMPLES]
    examples = EXAMPLES if objective == "token_weights" else bare
    for epoch in range(5):
        batch = make_batch(examples, epoch=epoch)
        masked = [
            int(denoising_step(denoiser, batch, method).metric_sums()["num_masked"])
            for method in (SFT, MethodConfig(objective=objective))
        ]
        assert masked[0] == masked[1]


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (SFT, 0),
        (MethodConfig(), 0),
        (MethodConfig(entropies="online"), 1),
        (MethodConfig(entropies="online", objective="token_weights"), 1),
        (MethodConfig(entropies="online", gamma=0), 0),
        (MethodConfig(objective="dft"), 0),
        (MethodConfig(objective="cart"), 0),
    ],
)
def test_extra_forward_passes_are_counted(pooling_denoiser, method, passes):
    found = denoising_step(pooling_denoiser(), make_batch(), method).metric_sums()
    assert int(found["num_extra_tokens"]) == passes * int(found["num_tokens"])


def test_online_surprisals_are_those_of_the_reference_pass(pooling_denoiser):
    from weft.entropy import reference_entropies

    denoiser = pooling_denoiser()
    batch = make_batch(tail_max=0)
    nll = reference_entropies(
        denoiser, batch.input_ids, batch.attention_mask, batch.is_maskable, estimator="nll"
    )
    online = MethodConfig(entropies="online", online_estimator="nll")
    frozen = make_batch(tail_max=0)
    frozen.entropy = nll
    expected = denoising_step(denoiser, frozen, MethodConfig()).loss_sum
    assert torch.equal(denoising_step(denoiser, batch, online).loss_sum, expected)
    by_entropy = MethodConfig(entropies="online")
    assert not torch.equal(denoising_step(denoiser, batch, by_entropy).loss_sum, expected)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"objective": "sft"}, "objective: wanted one of weft, token_weights, dft, cart, lift"),
        ({"cart_p": 1.0}, r"cart_p: wanted a number in \(0, 1\), got 1.0"),
        ({"online_estimator": "expected"}, "online_estimator: wanted one of full_mask, nll"),
    ],
)
def test_impossible_methods_are_refused(changes, match):
    with pytest.raises(ValueError, match=match):
        MethodConfig(**changes)
