import pytest
import torch

from weft.batch import Example, collate, lay_out, reference_batch, split_entropies
from weft.noise import noise_levels, tail_length, token_uniforms

EOS = 1
SHORT = Example("short", [5, 6], [7, EOS], [0.5, 0.25], [0.125, 0.0625])
LONG = Example("long", [5], [7, 8, 9, 7, EOS], [1.0, 2.0, 3.0, 4.0, 5.0], [0.1])
OPTIONS = {
    "seed": 3,
    "epoch": 2,
    "eps": 1e-3,
    "eos_policy": "random_tail",
    "tail_max": 8,
    "max_length": 30,
    "eos_token_id": EOS,
}


def make(examples, **changes):
    return collate(examples, **(OPTIONS | changes))


def test_lay_out_by_hand():
    batch = lay_out([SHORT, LONG], [3, 0], eos_token_id=EOS, pad_token_id=99)
    assert batch.input_ids.tolist() == [[5, 6, 7, 1, 1, 1, 1], [5, 7, 8, 9, 7, 1, 99]]
    assert batch.attention_mask.int().tolist() == [[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0]]
    assert batch.is_maskable.int().tolist() == [[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0]]
    assert batch.is_tail.int().tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]]
    # Tail token j has the entropy of min(j, last).
    expected = [[0, 0, 0.5, 0.25, 0.125, 0.0625, 0.0625], [0, 1, 2, 3, 4, 5, 0]]
    assert torch.equal(batch.entropy, torch.tensor(expected))
    assert batch.is_padded


@pytest.mark.parametrize(
    ("policy", "tails"),
    [("one", [0, 0]), ("pad_to_max", [26, 24]), ("pad_to_batch", [2, 0])],
)
def test_eos_policies_by_hand(policy, tails):
    batch = make([SHORT, LONG], eos_policy=policy)
    assert batch.is_tail.sum(dim=1).tolist() == tails
    assert batch.input_ids[batch.is_tail].unique().tolist() in ([], [EOS])
    assert bool((batch.attention_mask >= batch.is_maskable).all())
    assert batch.is_padded == (policy == "one")


def test_random_tail_has_the_keyed_length():
    for epoch in range(5):
        batch = make([SHORT, LONG], epoch=epoch)
        wanted = [tail_length(3, epoch, name, 8) for name in ("short", "long")]
        assert batch.is_tail.sum(dim=1).tolist() == wanted


def test_the_tail_is_shortened_to_fit_and_never_the_response():
    example = next(
        Example(f"e{i}", [5], [7, 8, EOS]) for i in range(50) if tail_length(3, 2, f"e{i}", 8) > 2
    )
    assert int(make([example], max_length=6).is_tail.sum()) == 2
    assert int(make([example], max_length=4).is_tail.sum()) == 0
    assert make([example], max_length=4).input_ids.tolist() == [[5, 7, 8, EOS]]
    with pytest.raises(ValueError, match=r"max_length = 3 .*got 4"):
        make([example], max_length=3)


@pytest.mark.parametrize("policy", ["random_tail", "pad_to_max", "pad_to_batch"])
def test_a_truncated_response_has_no_tail(policy):
    batch = make([Example("cut", [5], [7, 8]), LONG], eos_policy=policy)
    assert not bool(batch.is_tail[0].any())
    assert not bool(batch.attention_mask[0, 3:].any())


def test_noise_of_an_example_does_not_depend_on_its_batch():
    alone, together = make([SHORT]), make([LONG, SHORT])
    assert torch.equal(alone.noise_level[0], together.noise_level[1])
    assert torch.equal(
        alone.uniforms[0, alone.is_maskable[0]], together.uniforms[1, together.is_maskable[1]]
    )
    assert alone.noise_level[0] == noise_levels(3, 2, ["short"], eps=1e-3)
    assert alone.noise_level.shape == (1, 1)


def test_noise_of_a_token_does_not_depend_on_prompt_or_tail():
    first = make([SHORT], eos_policy="one")
    other_prompt = Example("short", [5, 6, 5, 6, 5], SHORT.response_ids)
    second = make([other_prompt], eos_policy="pad_to_max")
    wanted = token_uniforms(3, 2, "short", 25)
    assert torch.equal(first.uniforms[0, 2:], wanted[:2])
    assert torch.equal(second.uniforms[0, 5:], wanted)


def test_collate_is_pure():
    first, second, later = make([SHORT, LONG]), make([SHORT, LONG]), make([SHORT, LONG], epoch=3)
    assert torch.equal(first.uniforms, second.uniforms)
    assert torch.equal(first.input_ids, second.input_ids)
    assert not torch.equal(first.noise_level, later.noise_level)


def test_entropies_are_known_only_if_every_example_has_them():
    bare = Example("bare", [5], [7, EOS])
    no_tail = Example("no-tail", [5], [7, EOS], [1.0, 2.0], [])
    assert make([SHORT, LONG]).has_entropy
    assert make([SHORT, LONG], eos_policy="pad_to_max").has_tail_entropy
    assert not make([SHORT, bare]).has_entropy
    assert not make([SHORT, no_tail], eos_policy="pad_to_max").has_tail_entropy
    assert make([SHORT, no_tail], eos_policy="one").has_tail_entropy


def test_reference_batch_masks_a_fixed_tail_and_splits_again():
    batch = reference_batch([SHORT, LONG], tail=3, max_length=8, eos_token_id=EOS)
    assert batch.is_tail.sum(dim=1).tolist() == [3, 2]
    values = torch.arange(batch.input_ids.numel()).reshape(batch.input_ids.shape)
    parts = split_entropies(values, batch)
    width = batch.input_ids.shape[1]
    assert [part.tolist() for part in parts[0]] == [[2, 3], [4, 5, 6]]
    assert [(part - width).tolist() for part in parts[1]] == [[1, 2, 3, 4, 5], [6, 7]]


def test_to_moves_every_tensor():
    moved = make([SHORT, LONG]).to("meta")
    assert {t.device.type for t in vars(moved).values() if isinstance(t, torch.Tensor)} == {"meta"}
    assert moved.example_ids == ["short", "long"]


@pytest.mark.parametrize(
    ("examples", "changes", "match"),
    [
        ([], {}, "at least one example"),
        ([Example("x", [5], [])], {}, "x: wanted a response"),
        ([Example("x", [5], [7, EOS], [1.0])], {}, "x: wanted 2 entropies"),
        ([SHORT], {"eos_policy": "two"}, "eos_policy"),
        ([SHORT], {"eps": 0.0}, "eps"),
        ([SHORT], {"tail_max": -1}, "tail_max"),
    ],
)
def test_collate_refuses_what_it_cannot_lay_out(examples, changes, match):
    with pytest.raises(ValueError, match=match):
        make(examples, **changes)


def test_an_empty_prompt_is_pre_training():
    batch = make([Example("text", [], [7, 8, EOS])], eos_policy="one")
    assert batch.is_maskable.tolist() == [[True, True, True]]
