"""The LLaDA network: equal to the published code, bidirectional, and indifferent to padding."""

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.published import write_published
from weft.models import load_denoiser, meta_denoiser, random_denoiser


@pytest.fixture
def denoiser():
    model = random_denoiser("tiny", generator=torch.Generator().manual_seed(5)).eval()
    # Weights ten times as large: predictions then depend visibly on the other tokens.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10 if parameter.shape[0] < 384 else 3)
    return model


def some_ids(*shape, seed=0):
    return torch.randint(5, 384, shape, generator=torch.Generator().manual_seed(seed))


def test_logits_of_the_llada_golden_equal_those_of_the_published_code(shared_data):
    folder = shared_data / "golden" / "llada_tiny"
    golden = load_file(folder / "forward.safetensors")
    with torch.inference_mode():
        found = load_denoiser(str(folder)).eval()(golden["input_ids"])
    assert found.shape == golden["logits"].shape
    # The same operations, so equal to the bit on the same kernels; other processors sum in another
    # order, which leaves some tens of roundings (1e-6) of logits up to 12.
    torch.testing.assert_close(found, golden["logits"], rtol=0, atol=2e-5)


def test_logits_have_the_width_of_the_embedding(shared_data):
    model = meta_denoiser(str(shared_data / "golden" / "llada_tiny"))
    assert (model.architecture.values["vocab_size"], model.vocab_size) == (320, 384)
    assert (model.mask_token_id, model.eos_token_id, model.max_length) == (319, 2, 128)
    assert model.architecture.logit_shift is False


@pytest.mark.parametrize("changed", [0, 7, 15])
def test_every_row_sees_every_token(denoiser, changed):
    ids = some_ids(1, 16)
    other = ids.clone()
    other[0, changed] = (ids[0, changed] + 1) % 384
    with torch.inference_mode():
        difference = (denoiser(ids) - denoiser(other)).abs().amax(dim=-1)[0]
    # Far above rounding; a causal network would give exactly 0 before the changed token.
    assert (difference > 1e-3).all()


def test_rows_know_their_position(denoiser):
    ids = some_ids(1, 1).expand(1, 8)
    with torch.inference_mode():
        logits = denoiser(torch.cat([ids, some_ids(1, 1, seed=1)], dim=1))
    assert (logits[0, 0] - logits[0, 6]).abs().max() > 1e-3


def test_padding_changes_no_real_row_and_makes_no_nan(denoiser):
    lengths = [20, 13, 1]
    rows = [some_ids(1, n, seed=n) for n in lengths]
    mask = torch.arange(20)[None] < torch.tensor(lengths)[:, None]
    outputs = []
    with torch.inference_mode():
        alone = [denoiser(row)[0] for row in rows]
        for filler in (0, 9):
            batch = torch.full((3, 20), filler)
            for number, row in enumerate(rows):
                batch[number, : row.shape[1]] = row
            outputs.append(denoiser(batch, mask))
    for number, length in enumerate(lengths):
        # Sums are taken in another order at another shape: many roundings (2e-7) of logits to 3.
        torch.testing.assert_close(outputs[0][number, :length], alone[number], rtol=0, atol=5e-5)
        # What stands in the padding cannot matter at all.
        assert torch.equal(outputs[0][number, :length], outputs[1][number, :length])
    assert torch.isfinite(outputs[0]).all()


def test_a_row_of_padding_alone_makes_no_nan_in_values_or_gradients(denoiser):
    mask = torch.tensor([[True, True, False], [False, False, False]])
    logits = denoiser(some_ids(2, 3), mask)
    assert torch.isfinite(logits).all()
    logits[0, :2].sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in denoiser.parameters())


def test_a_mask_without_padding_is_the_same_as_none(denoiser):
    ids = some_ids(2, 9)
    with torch.inference_mode():
        assert torch.equal(denoiser(ids, torch.ones(2, 9, dtype=torch.bool)), denoiser(ids))


def test_gradient_checkpointing_gives_equal_gradients(denoiser):
    ids, mask = some_ids(2, 12), torch.arange(12)[None] < torch.tensor([[12], [7]])

    def gradients():
        denoiser.zero_grad()
        torch.logsumexp(denoiser(ids, mask)[mask], dim=-1).sum().backward()
        return [p.grad.clone() for p in denoiser.parameters()]

    denoiser.train()
    kept = gradients()
    calls = []
    denoiser.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    denoiser.enable_gradient_checkpointing()
    recomputed = gradients()
    assert len(calls) == 2  # forward, and again in the backward pass
    # The same operations in the same order: equal to the bit.
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
    assert any(g.abs().max() > 0 for g in kept)


def test_every_weight_has_a_gradient(denoiser):
    denoiser.train()(some_ids(2, 12)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in denoiser.parameters())


def test_initialize_draws_from_the_generator_alone():
    first, again, other = (
        random_denoiser("tiny", generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    state = first.state_dict()
    assert all(torch.equal(state[name], t) for name, t in again.state_dict().items())
    assert not torch.equal(first.wte.weight, other.wte.weight)
    torch.manual_seed(99)  # the global state has no say
    third = random_denoiser("tiny", generator=torch.Generator().manual_seed(1))
    assert torch.equal(first.wte.weight, third.wte.weight)


def test_initialize_has_the_standard_deviations_it_names():
    model = random_denoiser("tiny", generator=torch.Generator().manual_seed(0))
    # 128 * 384 draws estimate a deviation to 0.3 %; six blocks scale outputs by 1 / sqrt(12).
    assert float(model.wte.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    down = torch.cat([block.mlp.down_proj.weight.flatten() for block in model.blocks])
    assert float(down.detach().std()) == pytest.approx(0.02 / 12**0.5, rel=0.02)
    assert torch.equal(model.ln_f.weight, torch.ones(128))


def test_llada_8b_has_the_published_number_of_parameters(tmp_path):
    model = meta_denoiser(write_published(tmp_path, "llada8b"))
    assert sum(p.numel() for p in model.parameters()) == 8_015_581_184
    assert all(p.is_meta for p in model.parameters())
