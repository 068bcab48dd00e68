"""Caches, thresholds and early stops: what they leave as it is, and what they cost."""

import copy
from dataclasses import replace

import pytest
import torch

from weft.models import load_denoiser, random_denoiser
from weft.models.kv_cache import KvCache, PartOfRows, WholeRows
from weft.sampling import DecodeSettings, Request, decode, predict

SETTINGS = {"gen_length": 24, "block_length": 8, "steps": 12}
FAST = [
    {"threshold": 0.05},
    {"cache": "prefix"},
    {"cache": "dual"},
    {"cache": "dual", "threshold": 0.05},
    {"cache": "dual", "threshold": 0.05, "early_stop": True},
    {"cache": "prefix", "threshold": 0.05, "temperature": 0.7},
]


@pytest.fixture(scope="module")
def denoiser():
    model = random_denoiser("tiny", generator=torch.Generator().manual_seed(3)).eval()
    with torch.no_grad():
        model.ff_out.weight.mul_(20)  # so that predictions differ between positions
    return model


@pytest.fixture(scope="module")
def shifted(shared_data):
    return load_denoiser(str(shared_data / "golden" / "dream_tiny")).eval()


def requests_of(*prompts):
    return [Request(p, torch.Generator().manual_seed(n)) for n, p in enumerate(prompts)]


def decoded(model, prompts, *, batch_size=8, **settings):
    settings = DecodeSettings(**SETTINGS | settings)
    found = decode(model, requests_of(*prompts), settings, batch_size=batch_size)
    return sorted(found, key=lambda row: row.index)


PROMPTS = [[5, 6, 7], [8] * 17, [9, 10], [11], [12, 13, 14, 15, 16]]


@pytest.mark.parametrize("family", ["denoiser", "shifted"])
@pytest.mark.parametrize("settings", FAST, ids=str)
@pytest.mark.parametrize("batch_size", [2, 5])
def test_batch_independence_of_every_fast_decoder(request, family, settings, batch_size):
    """Rows that stand at other steps, that replace others, and of other lengths."""
    model = request.getfixturevalue(family)
    together = decoded(model, PROMPTS, batch_size=batch_size, **settings)
    for number, row in enumerate(together):
        single = [Request(PROMPTS[number], torch.Generator().manual_seed(number))]
        (alone,) = decode(model, single, DecodeSettings(**SETTINGS | settings), batch_size=1)
        assert torch.equal(alone.tokens, row.tokens)
        assert torch.equal(alone.unmask_step, row.unmask_step)
        assert (alone.nfe, alone.whole_passes) == (row.nfe, row.whole_passes)


@pytest.mark.parametrize("family", ["denoiser", "shifted"])
def test_parts_of_rows_equal_whole_rows_where_nothing_has_changed(request, family):
    """With the cache of the very same tokens a part's states are those of the whole."""
    model = request.getfixturevalue(family)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 200, (3, 20), generator=generator)
    lengths = (20, 13, 20)
    mask = torch.arange(20) < torch.tensor(lengths)[:, None]
    cache = KvCache(4, 24)
    slots = torch.tensor([0, 1, 3])
    with torch.inference_mode():
        whole = model.states_of_whole(ids, mask, WholeRows(cache, slots))
        assert torch.equal(whole, model.hidden_states(ids, mask))
        columns = torch.arange(5, 9) + torch.tensor([0, 2, 9])[:, None]
        part = PartOfRows(cache, slots, columns, lengths)
        states = model.states_of_part(ids.gather(1, columns), part)
    own = columns + int(model.architecture.logit_shift)
    wanted = whole.gather(1, own.clamp(max=19)[..., None].expand(-1, -1, whole.shape[-1]))
    is_there = own < 20
    torch.testing.assert_close(states[is_there], wanted[is_there], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["denoiser", "shifted"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_with_one_step_a_block_a_cache_changes_nothing(request, family, cache):
    model = request.getfixturevalue(family)
    plain = decoded(model, PROMPTS, steps=3)
    cached = decoded(model, PROMPTS, steps=3, cache=cache)
    for first, second in zip(plain, cached, strict=True):
        assert torch.equal(first.tokens, second.tokens)
        assert second.whole_passes == second.nfe == 3


def test_the_prefix_cache_of_one_block_recomputes_all_that_changes(denoiser):
    """All that can change in a single block is the block, but for a prompt that sees it change."""
    one_block = {"gen_length": 8, "block_length": 8, "steps": 8}
    for cache in ("prefix", "dual"):
        rows = decoded(denoiser, [[], [5]], cache=cache, **one_block)
        assert (rows[0].nfe, rows[0].whole_passes) == (8, 1)
    # Without a prompt nothing is left that a cache could hold back.
    plain = decoded(denoiser, [[]], **one_block)
    cached = decoded(denoiser, [[]], cache="dual", **one_block)
    assert torch.equal(plain[0].tokens, cached[0].tokens)
    assert torch.equal(plain[0].unmask_step, cached[0].unmask_step)


def test_a_cache_refreshes_once_a_block(denoiser):
    for row in decoded(denoiser, PROMPTS, cache="dual"):
        assert (row.nfe, row.whole_passes) == (12, 3)


def test_a_threshold_of_one_commits_the_surest_alone(denoiser):
    rows = decoded(denoiser, PROMPTS, threshold=1.0)
    single = decoded(denoiser, PROMPTS, steps=24)
    for row, plain in zip(rows, single, strict=True):
        assert row.nfe == 24
        assert torch.equal(row.tokens, plain.tokens)
        assert torch.equal(row.unmask_step, plain.unmask_step)


def test_a_threshold_commits_all_that_reach_it_and_at_least_one(denoiser):
    threshold = 0.3
    (row,) = decoded(denoiser, [[5, 6, 7]], threshold=threshold)
    prompt = torch.tensor([5, 6, 7])
    for step in range(row.nfe):
        is_known = (row.unmask_step < step) & (row.unmask_step >= 0)
        canvas = torch.where(is_known, row.tokens, denoiser.mask_token_id)
        with torch.no_grad():
            logits = denoiser(torch.cat([prompt, canvas])[None])[0, 3:]
        logits[:, denoiser.mask_token_id] = -torch.inf
        sure = logits.double().softmax(-1).amax(-1)
        now = (row.unmask_step == step).nonzero().flatten().tolist()
        block = range(now[0] // 8 * 8, now[0] // 8 * 8 + 8)
        still = [k for k in block if not is_known[k]]
        surest = max(still, key=lambda k: float(sure[k]))
        assert set(now) == {k for k in still if sure[k] >= threshold} | {surest}
    assert row.nfe < 24


def test_a_low_threshold_takes_one_step_a_block(denoiser):
    for row in decoded(denoiser, PROMPTS, threshold=1e-9):
        assert row.nfe == 3


def test_under_a_threshold_the_mask_token_is_never_predicted(denoiser):
    stubborn = copy.deepcopy(denoiser)
    with torch.no_grad():
        stubborn.ff_out.weight[stubborn.mask_token_id] = 50 * stubborn.ff_out.weight.abs().sum(0)
    for row in decoded(stubborn, PROMPTS, threshold=0.9):
        assert not (row.tokens == stubborn.mask_token_id).any()
        assert row.nfe <= 24


class Scripted(torch.nn.Module):
    """Predicts ``script`` at the positions behind a prompt of two tokens, surest from the left."""

    mask_token_id, eos_token_id, vocab_size, max_length = 1, 0, 6, 64

    def __init__(self, script, *, leftmost_first=True):
        super().__init__()
        self.script, self.sign = script, 1 if leftmost_first else -1
        self.parameter = torch.nn.Parameter(torch.zeros(()))

    def hidden_states(self, input_ids, attention_mask=None):
        return torch.arange(input_ids.shape[1]).expand(input_ids.shape)[..., None].float()

    def project(self, hidden):
        places = hidden[..., 0].long() - 2
        tokens = torch.tensor(self.script)[places.clamp(0, len(self.script) - 1)]
        scale = 20 - self.sign * places * 0.1
        return torch.nn.functional.one_hot(tokens, self.vocab_size) * scale[:, None]


SCRIPT = [3, 4, 5, 0, 5, 0, 0, 4]


def test_early_stop_ends_at_the_first_eos_and_fills_with_it():
    common = {"gen_length": 8, "block_length": 8, "steps": 8, "early_stop": True}
    (row,) = decoded(Scripted(SCRIPT), [[2, 2]], **common)
    assert row.tokens.tolist() == [3, 4, 5, 0, 0, 0, 0, 0]
    assert row.unmask_step.tolist() == [0, 1, 2, 3, -1, -1, -1, -1]
    assert row.nfe == 4


def test_early_stop_waits_for_what_is_before_eos():
    common = {"gen_length": 8, "block_length": 8, "steps": 8, "early_stop": True}
    (row,) = decoded(Scripted(SCRIPT, leftmost_first=False), [[2, 2]], **common)
    assert row.tokens.tolist() == SCRIPT
    assert row.nfe == 8


def test_early_stop_leaves_the_text_before_eos_as_it_is(denoiser, monkeypatch):
    plain = decoded(denoiser, PROMPTS)
    eos = int(plain[0].tokens[9])  # some token that the first row has in the middle
    original = denoiser.architecture
    monkeypatch.setattr(denoiser, "architecture", replace(original, eos_token_id=eos))
    stopped = decoded(denoiser, PROMPTS, early_stop=True)
    assert any(row.nfe < 12 for row in stopped)
    for first, second in zip(plain, stopped, strict=True):
        places = (second.tokens == eos).nonzero().flatten().tolist()
        end = places[0] if places else 24
        assert first.tokens[:end].tolist() == second.tokens[:end].tolist()


def test_a_batch_is_refilled_and_shrinks(denoiser, monkeypatch):
    sizes = []
    original = denoiser.hidden_states

    def recording(input_ids, attention_mask=None):
        sizes.append(len(input_ids))
        return original(input_ids, attention_mask)

    monkeypatch.setattr(denoiser, "hidden_states", recording)
    settings = DecodeSettings(**SETTINGS | {"threshold": 0.3})
    rows = list(decode(denoiser, requests_of(*PROMPTS, *PROMPTS), settings, batch_size=3))
    assert sorted(row.index for row in rows) == list(range(10))
    assert sum(sizes) == sum(row.nfe for row in rows)
    assert max(sizes) == 3
    # Full while there is something to refill with, smaller at the end.
    assert sizes[: len(sizes) // 2] == [3] * (len(sizes) // 2)
    assert sizes[-1] < 3


def test_rows_come_as_they_are_done(denoiser):
    settings = DecodeSettings(**SETTINGS)
    found = decode(denoiser, requests_of(*PROMPTS), settings, batch_size=2)
    assert [row.index for row in found] == [0, 1, 2, 3, 4]
    found = decode(denoiser, requests_of(*PROMPTS), settings, batch_size=2)
    next(found)
    assert not torch.is_inference_mode_enabled()


def test_eos_that_is_never_predicted_does_not_come():
    plain = decoded(Scripted(SCRIPT), [[2, 2]], gen_length=8, block_length=8, steps=8)
    assert plain[0].tokens.tolist() == SCRIPT
    settings = {"gen_length": 8, "block_length": 8, "steps": 8, "logits_eos_inf": True}
    (row,) = decoded(Scripted(SCRIPT), [[2, 2]], **settings)
    assert 0 not in row.tokens.tolist()


def test_ends_are_committed_last_under_llada_flag():
    """LLaDA's flag of this name moves the end of a turn to the end, and EOS only without noise."""
    script = [3, 4, 5, 0, 5, 0, 2, 4]
    common = {"gen_length": 8, "block_length": 8, "steps": 8, "eot_token_id": 4}
    (row,) = decoded(Scripted(script), [[2, 2]], confidence_eos_eot_inf=True, **common)
    assert row.tokens.tolist() == script
    assert row.unmask_step[[0, 2, 4, 6]].tolist() == [0, 1, 2, 3]
    assert sorted(row.unmask_step[[1, 3, 5, 7]].tolist()) == [4, 5, 6, 7]
    noisy = common | {"temperature": 1e-9}
    (row,) = decoded(Scripted(script), [[2, 2]], confidence_eos_eot_inf=True, **noisy)
    assert row.unmask_step[[0, 2, 3, 4, 5, 6]].tolist() == [0, 1, 2, 3, 4, 5]
    (plain,) = decoded(Scripted(script), [[2, 2]], **common)
    assert plain.unmask_step.tolist() == list(range(8))


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 0.7}, {"temperature": 0.7, "remasking": "random"}, {"cfg_scale": 0.5}],
    ids=str,
)
def test_batch_independence_where_the_logits_come_in_chunks(denoiser, settings, monkeypatch):
    """The borders of chunks depend on what the other rows have open."""
    whole = decoded(denoiser, PROMPTS, **settings)
    monkeypatch.setattr(predict, "rows_within", lambda mib, vocab_size: 11)
    for number, row in enumerate(decoded(denoiser, PROMPTS, batch_size=3, **settings)):
        assert torch.equal(row.tokens, whole[number].tokens)
        assert torch.equal(row.unmask_step, whole[number].unmask_step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": "all"}, "cache: wanted none or prefix or dual, got 'all'"),
        ({"threshold": 1.5}, "threshold: wanted a number from 0 to 1, got 1.5"),
        ({"threshold": 0.9, "remasking": "random"}, "threshold: random remasking"),
        ({"cache": "dual", "cfg_scale": 1.0}, "cache: guidance needs whole passes"),
        ({"gen_length": 30}, "got 30 and 8; the nearest gen_length is 32"),
        ({"steps": 13}, "got 13; the nearest is 12"),
        ({"steps": 48}, "at most 24, got 48; the nearest is 24"),
    ],
)
def test_settings_that_cannot_run_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        DecodeSettings(**SETTINGS | change)


def test_a_cache_wants_a_network_of_blocks(denoiser):
    class Without(Scripted):
        class architecture:  # noqa: N801
            can_cache = False

    with pytest.raises(ValueError, match="cache: Without cannot keep keys and values"):
        decoded(Without(SCRIPT), [[2, 2]], cache="dual")


def test_decode_wants_prompts_and_generators(denoiser):
    settings = DecodeSettings(**SETTINGS)
    with pytest.raises(ValueError, match="at least one prompt and a batch of at least 1, got 0"):
        list(decode(denoiser, [], settings, batch_size=1))
    warm = DecodeSettings(**SETTINGS, temperature=1.0)
    with pytest.raises(ValueError, match="want a generator for each request"):
        list(decode(denoiser, [Request([5])], warm, batch_size=1))
