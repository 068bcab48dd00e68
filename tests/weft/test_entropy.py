import math

import pytest
import torch
import torch.nn.functional as F

from weft.entropy import entropy_bounds, entropy_of_logits, reference_entropies
from weft.head import Head
from weft.noise import example_generator

IDS = torch.tensor([[2, 3, 4, 5, 6, 1, 1], [7, 8, 9, 3, 1, 1, 1]])
ATTENTION = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)
MASKABLE = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 0]], dtype=torch.bool)


def generators(names=("a", "b")):
    return [example_generator(0, 0, name, "reference") for name in names]


def dense_logits(denoiser, is_masked, rows=slice(None)):
    ids = torch.where(is_masked, denoiser.mask_token_id, IDS)
    return denoiser.head.logits(denoiser.hidden_states(ids, ATTENTION)).detach()[rows]


def test_entropy_of_logits_by_hand():
    logits = torch.tensor(
        [[0.0, 0.0, 0.0, 0.0], [math.log(3), 0, -math.inf, -math.inf], [1e4, 0, 0, 0]]
    )
    quarters = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = torch.tensor([math.log(4), quarters, 0.0])
    assert torch.allclose(entropy_of_logits(logits), expected, rtol=1e-6)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_entropy_of_broken_logits_is_no_certainty(broken):
    logits = torch.tensor([[broken, 0.0, 0.0], [0.0, 0.0, 0.0]])
    found = entropy_of_logits(logits)
    assert found.isnan().tolist() == [True, False]


def test_entropy_of_logits_is_never_negative():
    logits = torch.randn(500, 7, generator=torch.Generator().manual_seed(0)) * 40
    assert bool((entropy_of_logits(logits) >= 0).all())


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 50])
def test_entropies_do_not_depend_on_the_chunks(pooling_denoiser, monkeypatch, chunk_size):
    denoiser = pooling_denoiser()
    expected = reference_entropies(denoiser, IDS, ATTENTION, MASKABLE)
    rows, logits = [], Head.logits

    def counting_logits(head, part):
        rows.append(len(part))
        return logits(head, part)

    monkeypatch.setattr(Head, "logits", counting_logits)
    got = reference_entropies(denoiser, IDS, ATTENTION, MASKABLE, chunk_size=chunk_size)
    assert torch.allclose(got, expected, rtol=1e-5)
    assert not got.requires_grad
    assert sum(rows) == int(MASKABLE.sum())
    assert max(rows) <= chunk_size


def test_entropies_of_nothing_maskable_are_zero(pooling_denoiser):
    nothing = torch.zeros_like(MASKABLE)
    assert not reference_entropies(pooling_denoiser(), IDS, ATTENTION, nothing).any()


def test_full_mask_is_the_entropy_with_every_maskable_token_masked(pooling_denoiser):
    denoiser = pooling_denoiser()
    got = reference_entropies(denoiser, IDS, ATTENTION, MASKABLE, chunk_size=3)
    probs = torch.softmax(dense_logits(denoiser, MASKABLE), -1)
    expected = -(probs * probs.log()).sum(-1) * MASKABLE
    assert got.dtype == torch.float32
    assert torch.allclose(got, expected, rtol=1e-5)


def test_nll_is_the_surprisal_of_the_true_token_at_full_mask(pooling_denoiser):
    denoiser = pooling_denoiser()
    got = reference_entropies(denoiser, IDS, ATTENTION, MASKABLE, estimator="nll", chunk_size=3)
    log_probs = torch.log_softmax(dense_logits(denoiser, MASKABLE), -1)
    expected = -log_probs.gather(-1, IDS.unsqueeze(-1)).squeeze(-1) * MASKABLE
    assert torch.allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["full_mask", "nll", "expected"])
def test_reference_entropies_do_not_depend_on_the_rest_of_the_batch(pooling_denoiser, estimator):
    denoiser = pooling_denoiser()
    options = {"estimator": estimator, "num_levels": 5}
    both = reference_entropies(
        denoiser, IDS, ATTENTION, MASKABLE, generators=generators(), **options
    )
    alone = reference_entropies(
        denoiser, IDS[1:, :5], None, MASKABLE[1:, :5], generators=generators(("b",)), **options
    )
    assert torch.allclose(both[1, :5], alone[0], rtol=1e-5)  # other shapes, other roundings
    assert not bool(both[1, 5:].any())


def test_expected_of_one_level_is_full_mask(pooling_denoiser):
    denoiser = pooling_denoiser()
    one = reference_entropies(
        denoiser,
        IDS,
        ATTENTION,
        MASKABLE,
        estimator="expected",
        num_levels=1,
        generators=generators(),
    )
    assert torch.equal(one, reference_entropies(denoiser, IDS, ATTENTION, MASKABLE))


def test_expected_tends_to_the_mean_over_contexts_with_the_token_masked(table_denoiser):
    """Exact: E[H_i given m_i = 1] for t ~ U(0, 1) by the beta integral over all 8 patterns."""
    table = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0)) * 2
    ids = torch.tensor([[5, 2, 3, 1]])
    is_maskable = torch.tensor([[False, True, True, True]])
    got = reference_entropies(
        table_denoiser(table),
        ids,
        None,
        is_maskable,
        estimator="expected",
        num_levels=20000,
        generators=generators(("a",)),
    )[0, 1:]
    entropies = entropy_of_logits(table)
    total, count = torch.zeros(3), torch.zeros(3)
    for pattern in range(8):
        masked = torch.tensor([bool(pattern >> i & 1) for i in range(3)])
        k = int(masked.sum())
        # Integral of t**k (1-t)**(3-k) over (0, 1).
        probability = math.factorial(k) * math.factorial(3 - k) / math.factorial(4)
        total += probability * masked * entropies[pattern]
        count += probability * masked
    assert torch.allclose(count, torch.full((3,), 0.5))
    # Standard error of a mean over 10000 measurements of entropies that spread by under 0.5.
    assert torch.allclose(got, total / count, atol=4 * 0.005)
    full = reference_entropies(table_denoiser(table), ids, None, is_maskable)[0, 1:]
    assert bool(((got - full).abs() > 0.05).any())


def test_expected_draws_its_levels_in_strata_below_the_full_mask(table_denoiser):
    """With three levels: everything masked, then t uniform in (0, 1/3) and in (1/3, 2/3)."""
    num_keys = 4000
    denoiser = table_denoiser(torch.zeros(2, 1, 4))
    fractions = []

    def recording(input_ids, attention_mask=None, inner=denoiser.hidden_states):
        fractions.append(float((input_ids == denoiser.mask_token_id).float().mean()))
        return inner(input_ids, attention_mask)

    denoiser.hidden_states = recording
    reference_entropies(
        denoiser,
        torch.full((num_keys, 1), 2),
        None,
        torch.ones(num_keys, 1, dtype=torch.bool),
        estimator="expected",
        num_levels=3,
        generators=generators([str(i) for i in range(num_keys)]),
    )
    # Standard error of a proportion of 1/2 over 4000 keys: 0.0079.
    assert fractions == pytest.approx([1.0, 1 / 6, 1 / 2], abs=4 * 0.0079)


def test_expected_is_keyed_and_repeatable(pooling_denoiser):
    def run(names):
        return reference_entropies(
            pooling_denoiser(),
            IDS,
            ATTENTION,
            MASKABLE,
            estimator="expected",
            num_levels=6,
            generators=generators(names),
        )

    assert torch.equal(run(("a", "b")), run(("a", "b")))
    assert torch.equal(run(("a", "b"))[0], run(("a", "c"))[0])
    assert not torch.equal(run(("a", "b"))[1], run(("a", "c"))[1])


def test_reference_pass_switches_dropout_off_and_on_again(pooling_denoiser):
    denoiser = pooling_denoiser(dropout=0.5).train()
    denoiser.dropout.eval()  # a submodule's own mode survives too
    frozen = reference_entropies(denoiser, IDS, ATTENTION, MASKABLE)
    assert denoiser.training
    assert not denoiser.dropout.training
    denoiser.dropout.train()
    assert torch.equal(reference_entropies(denoiser, IDS, ATTENTION, MASKABLE), frozen)
    assert denoiser.dropout.training


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"estimator": "autoregressive"}, "estimator"),
        ({"estimator": "expected", "num_levels": 0}, "num_levels"),
        ({"estimator": "expected"}, "generator"),
        ({"chunk_size": 0}, "chunk_size"),
    ],
)
def test_reference_entropies_refuse_impossible_settings(pooling_denoiser, options, match):
    with pytest.raises(ValueError, match=match):
        reference_entropies(pooling_denoiser(), IDS, ATTENTION, MASKABLE, **options)


def test_a_peaked_model_is_certain_and_a_flat_one_is_not(table_denoiser):
    peaked = torch.zeros(2, 1, 5)
    peaked[1, 0, 3] = 50.0
    ids, maskable = torch.tensor([[2]]), torch.tensor([[True]])
    certain = reference_entropies(table_denoiser(peaked), ids, None, maskable)
    flat = reference_entropies(table_denoiser(torch.zeros(2, 1, 5)), ids, None, maskable)
    assert float(certain) == pytest.approx(0.0, abs=1e-6)
    assert float(flat) == pytest.approx(math.log(5), rel=1e-6)
    assert F.softmax(peaked[1, 0], -1)[3] > 0.999


def known_part(probs: torch.Tensor, k: int, true: torch.Tensor):
    """What a server tells of ``probs`` [N, V]: the k most likely tokens, and the true one."""
    top = probs.topk(k, dim=-1)
    extra = probs.gather(1, true[:, None])
    is_outside = (top.indices != true[:, None]).all(dim=-1, keepdim=True)
    log_probs = torch.cat([top.values, torch.where(is_outside, extra, 0.0)], dim=-1).log()
    return log_probs, top.values[:, -1].log(), k + is_outside[:, 0].long()


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("k", [1, 5, 20, 50])
def test_entropy_bounds_hold_the_exact_entropy(spread: float, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = spread * torch.randn(200, 50, generator=generator, dtype=torch.float64)
    probs = logits.softmax(dim=-1)
    true = torch.randint(50, (200,), generator=generator)
    exact = -(probs * probs.log()).sum(dim=-1)
    low, high = entropy_bounds(*known_part(probs, k, true), 50)
    assert bool((low <= exact + 1e-12).all())
    assert bool((exact <= high + 1e-12).all())
    if k == 50:
        assert torch.allclose(low, exact)
        assert torch.allclose(high, exact)


def test_entropy_bounds_are_reached() -> None:
    """Known: 1/2 and 1/8; missing 3/8 among four tokens, each at most 1/8.

    Spread evenly: 4 tokens of 3/32. As uneven as may be: 3 of 1/8, one of 0.
    """
    log_probs = torch.tensor([[0.5, 0.125]]).log()
    low, high = entropy_bounds(log_probs, torch.tensor([0.125]).log(), torch.tensor([2]), 6)
    known = 0.5 * math.log(2) + 0.125 * math.log(8)
    assert low.item() == pytest.approx(known + 3 * 0.125 * math.log(8), abs=1e-6)
    assert high.item() == pytest.approx(known + 0.375 * math.log(32 / 3), abs=1e-6)


def test_entropy_bounds_of_a_certain_and_of_a_wholly_known_token() -> None:
    log_probs = torch.tensor([[0.0, -math.inf], [math.log(0.25), math.log(0.75)]])
    low, high = entropy_bounds(log_probs, torch.tensor([-9.0, -1.4]), torch.tensor([1, 2]), 2)
    assert low[0].item() == high[0].item() == 0
    exact = 0.25 * math.log(4) + 0.75 * math.log(4 / 3)
    assert low[1].item() == pytest.approx(exact)
    assert high[1].item() == pytest.approx(exact)
