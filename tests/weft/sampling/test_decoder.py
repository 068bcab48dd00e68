import copy
import json

import pytest
import torch

from weft.head import Head
from weft.models import Denoiser, load_denoiser, random_denoiser
from weft.sampling import DecodeSettings
from weft.sampling import generate as generate_with


def generate(model, prompts, *, generators=(), **settings):
    return generate_with(model, prompts, DecodeSettings(**settings), generators)


@pytest.fixture(scope="module")
def denoiser():
    model = random_denoiser("tiny", generator=torch.Generator().manual_seed(3)).eval()
    # Sharper than fresh weights, so that predictions differ between positions.
    with torch.no_grad():
        model.ff_out.weight.mul_(20)
    return model


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_golden_outputs_of_llada_generate_token_for_token(shared_data):
    folder = shared_data / "golden" / "llada_tiny"
    model = load_denoiser(str(folder)).eval()
    for case in json.loads((folder / "generate.json").read_text()):
        settings = {k: v for k, v in case.items() if k not in ("prompts", "outputs")}
        found = generate(model, case["prompts"], **settings)
        wanted = [
            output[len(p) :] for p, output in zip(case["prompts"], case["outputs"], strict=True)
        ]
        assert found.tokens.tolist() == wanted


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"temperature": 0.5, "remasking": "random"},
        {"temperature": 0.0, "cfg_scale": 1.0},
    ],
)
def test_batch_independence_of_the_plain_decoder(denoiser, settings):
    prompts = [[5, 6, 7], [8] * 17, [9, 10]]
    common = {"gen_length": 16, "block_length": 8, "steps": 8} | settings
    together = generate(denoiser, prompts, generators=generators(1, 2, 3), **common)
    for row, prompt in enumerate(prompts):
        alone = generate(denoiser, [prompt], generators=generators(row + 1), **common)
        assert torch.equal(alone.tokens[0], together.tokens[row])
        assert torch.equal(alone.unmask_step[0], together.unmask_step[row])


def test_tokens_that_stay_masked_were_never_unmasked(denoiser):
    stubborn = copy.deepcopy(denoiser)
    with torch.no_grad():
        # Whatever the input, the mask token has the largest logit or, negated, the smallest.
        stubborn.ff_out.weight.zero_()
        stubborn.ff_out.weight[stubborn.mask_token_id] = 1.0
    found = generate(stubborn, [[5], [6, 7]], gen_length=8, block_length=4, steps=4)
    is_masked = found.tokens == stubborn.mask_token_id
    assert is_masked.any()
    assert torch.equal(found.unmask_step == -1, is_masked)


def test_generate_commits_an_even_share_of_each_block_at_every_step(denoiser):
    found = generate(denoiser, [[5]], gen_length=16, block_length=8, steps=6)
    counts = torch.bincount(found.unmask_step[0], minlength=6).tolist()
    assert counts == [3, 3, 2, 3, 3, 2]
    assert found.unmask_step[0, :8].max() == 2
    assert found.unmask_step[0, 8:].min() == 3


def test_generate_counts_forward_passes_and_guidance_twice(denoiser):
    common = {"gen_length": 8, "block_length": 8, "steps": 4}
    assert generate(denoiser, [[5]], **common).nfe.tolist() == [4]
    assert generate(denoiser, [[5]], cfg_scale=0.5, **common).nfe.tolist() == [8]


def test_generate_commits_the_surest_prediction_first(denoiser):
    found = generate(denoiser, [[5, 6]], gen_length=8, block_length=8, steps=8)
    ids = torch.tensor([[5, 6] + [denoiser.mask_token_id] * 8])
    with torch.inference_mode():
        probabilities = denoiser(ids)[0, 2:].softmax(-1).max(-1)
    first = int((found.unmask_step[0] == 0).nonzero())
    assert first == int(probabilities.values.argmax())
    assert int(found.tokens[0, first]) == int(probabilities.indices[first])


class TableDenoiser(Denoiser):
    """Row i has the logit ``margins[i]`` for token 2 and 0 for the three others."""

    mask_token_id, eos_token_id, vocab_size, max_length, logit_shift = 1, 0, 4, 16, False

    def __init__(self, margins):
        super().__init__()
        self.margins = torch.nn.Parameter(torch.tensor(margins))

    def hidden_states(self, input_ids, attention_mask=None):
        return self.margins.expand(len(input_ids), -1)[..., None]

    @property
    def head(self):
        return Head(torch.tensor([[0.0], [0.0], [1.0], [0.0]]))

    def enable_gradient_checkpointing(self): ...

    def layers(self): ...

    def checkpoint_state(self, state=None): ...

    def official_module(self, name): ...


def test_generate_ranks_predictions_that_float32_cannot_tell_apart():
    # Probabilities 1 - 3 exp(-margin): 1 - 2e-8 and nearer, which are all 1 in float32.
    model = TableDenoiser([19.0, 23.0, 20.0, 24.0, 22.0, 21.0])
    found = generate(model, [[]], gen_length=6, block_length=6, steps=6)
    assert found.unmask_step.tolist() == [[5, 1, 4, 0, 2, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_length": 3}, "multiple of block_length"),
        ({"steps": 3}, "multiple of the 2 blocks"),
        ({"steps": 16}, "at most 8"),
        ({"temperature": 1.0}, "one generator a prompt"),
        ({"gen_length": 1024, "steps": 256}, "within the model's 512 tokens"),
        ({"remasking": "low"}, "remasking: wanted low_confidence or random, got 'low'"),
        ({"temperature": -0.5}, "temperature: wanted a finite number from 0 up, got -0.5"),
        ({"temperature": float("nan")}, "temperature: wanted a finite number from 0 up, got nan"),
        ({"cfg_scale": -1.0}, "cfg_scale: wanted a finite number from 0 up, got -1.0"),
    ],
)
def test_generate_refuses_settings_that_cannot_run(denoiser, change, message):
    settings = {"gen_length": 8, "block_length": 4, "steps": 4} | change
    with pytest.raises(ValueError, match=message):
        generate(denoiser, [[5]], **settings)
