"""Dream and A2D: equal to the published code and to transformers' own networks."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from benchmarks.published import write_published
from weft.models import load_denoiser, meta_denoiser, random_denoiser, save_denoiser

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
}
IDS = torch.randint(0, 96, (2, 12), generator=torch.Generator().manual_seed(0))


def write_config(folder, **values):
    folder.mkdir(exist_ok=True)
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))
    return str(folder)


def test_logits_of_the_dream_golden_equal_those_of_the_published_code(shared_data):
    folder = shared_data / "golden" / "dream_tiny"
    golden = load_file(folder / "forward.safetensors")
    model = load_denoiser(str(folder)).eval()
    with torch.inference_mode():
        found = model(golden["input_ids"])
    # Theirs: position i - 1 predicts token i. Ours are shifted to where they belong.
    torch.testing.assert_close(found[:, 1:], golden["logits"][:, :-1], rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, 0], golden["logits"][:, 0], rtol=0, atol=1e-4)


def test_saving_keeps_the_names_and_the_keys_of_the_dream_golden(shared_data, tmp_path):
    golden = shared_data / "golden" / "dream_tiny"
    save_denoiser(load_denoiser(str(golden)), tmp_path)
    wanted, found = (load_file(f / "model.safetensors") for f in (golden, tmp_path))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    configs = [json.loads((f / "config.json").read_text()) for f in (golden, tmp_path)]
    assert configs[0] == configs[1]


def autoregressive(family, folder, **changes):
    """A checkpoint of transformers' own, with the A2D names of its family and a mask token."""
    classes = {
        "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
        "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
        "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    }
    config_class, model_class = classes[family]
    extra = {"head_dim": 16} if family == "qwen3" else {}
    network = model_class(config_class(**SIZES, **extra, **changes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0.5 if parameter.ndim == 1 else 0.0, 0.3, generator=generator)
    network.save_pretrained(folder)
    values = json.loads((folder / "config.json").read_text())
    values |= {"model_type": f"a2d-{family}", "mask_token_id": 95, "eos_token_id": 1}
    write_config(folder, **values)
    return network.eval()


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("is_tied", [False, True])
def test_a2d_logits_equal_those_of_the_decoder_with_attention_in_both_directions(
    family, is_tied, tmp_path
):
    network = autoregressive(family, tmp_path, tie_word_embeddings=is_tied)
    model = load_denoiser(str(tmp_path)).eval()
    everywhere = torch.zeros(2, 1, 12, 12)  # added to the scores: nothing is hidden
    with torch.inference_mode():
        wanted = network(input_ids=IDS, attention_mask=everywhere).logits
        causal = network(input_ids=IDS).logits
        found = model(IDS)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, causal, atol=1e-2)
    assert model.architecture.logit_shift is False


def test_a2d_logits_are_shifted_where_the_configuration_says_so(tmp_path):
    autoregressive("qwen2", tmp_path)
    plain = load_denoiser(str(tmp_path)).eval()
    values = json.loads((tmp_path / "config.json").read_text())
    write_config(tmp_path, **values, right_shift_logits=True)
    shifted = load_denoiser(str(tmp_path)).eval()
    with torch.inference_mode():
        assert torch.equal(shifted(IDS)[:, 1:], plain(IDS)[:, :-1])


@pytest.mark.parametrize("model_type", ["Dream", "a2d-llama", "a2d-qwen3"])
def test_padding_changes_nothing(model_type, tmp_path):
    folder = write_config(
        tmp_path, model_type=model_type, mask_token_id=95, eos_token_id=1, **SIZES
    )
    model = random_denoiser(folder, generator=torch.Generator().manual_seed(0)).eval()
    padded = torch.nn.functional.pad(IDS, (0, 5))
    mask = torch.arange(17).expand(2, -1) < 12
    with torch.inference_mode():
        found, wanted = model(padded, mask)[:, :12], model(IDS)
    # Another shape, another order of the sums.
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_random_weights_start_with_biases_at_zero(tmp_path):
    folder = write_config(tmp_path, model_type="Dream", mask_token_id=95, eos_token_id=1, **SIZES)
    model = random_denoiser(folder, generator=torch.Generator().manual_seed(0))
    biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
    assert len(biases) == 9
    assert not any(bias.any() for bias in biases)


def test_qwen3_06b_has_the_published_number_of_parameters(tmp_path):
    model = meta_denoiser(write_published(tmp_path, "qwen3_06b"))
    assert sum(p.numel() for p in model.parameters()) == 596_049_920


def test_dream_7b_has_the_published_number_of_parameters(tmp_path):
    model = meta_denoiser(write_published(tmp_path, "dream7b"))
    assert sum(p.numel() for p in model.parameters()) == 7_615_616_512
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"hidden_size": ..., "vocab_size": None}, ["vocab_size: missing", "hidden_size: missing"]),
        ({"mask_token_id": ...}, ["mask_token_id: missing, and the tokenizer beside it"]),
        ({"eos_token_id": ...}, ["eos_token_id: missing, and the tokenizer beside it"]),
        ({"mask_token_id": 96}, ["mask_token_id: wanted an id below vocab_size (96)"]),
        ({"use_sliding_window": True}, ["use_sliding_window: wanted false"]),
        ({"hidden_size": "32"}, ["hidden_size"]),
        ({"logit_shift": "yes"}, ["logit_shift: wanted true or false, got 'yes'"]),
    ],
)
def test_configurations_that_do_not_fit_are_refused_naming_every_key(tmp_path, changes, parts):
    values = SIZES | {"model_type": "a2d-qwen2", "mask_token_id": 95, "eos_token_id": 1} | changes
    folder = write_config(tmp_path, **values)
    with pytest.raises(ValueError, match=r"config\.json") as caught:
        meta_denoiser(folder)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_misspelt_family_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean a2d-qwen3\?"):
        meta_denoiser(write_config(tmp_path, model_type="a2d_qwen3", **SIZES))


MASK = torch.arange(12).expand(3, -1) < torch.tensor([[12], [5], [9]])
PADDED = torch.randint(2, 90, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model_type", ["Dream", "a2d-llama", "a2d-qwen3"])
def test_rows_packed_without_their_padding_are_the_same(model_type, tmp_path):
    """Values, and the gradient of every weight; shifted logits stay within their document."""
    folder = write_config(
        tmp_path, model_type=model_type, mask_token_id=95, eos_token_id=1, **SIZES
    )
    model = random_denoiser(folder, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.ndim == 2 else 1)
    is_wanted = MASK & (PADDED % 2 == 0)
    is_wanted[:, 0] = True  # of a shifted network, where documents meet
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    found, gradients = [], []
    for packed in (False, True):
        hidden = model.hidden_at(PADDED, MASK, is_wanted, packed=packed)
        found.append(hidden.detach())
        gradients.append(
            torch.autograd.grad((hidden @ direction).sum(), list(model.parameters())[:-1])
        )
    assert found[0].shape == (int(is_wanted.sum()), 32)
    # Sums over another number of zeros, in another order.
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    for got, wanted in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))
    alone = model.hidden_at(PADDED[1:2, :5], None, is_wanted[1:2, :5], packed=True)
    torch.testing.assert_close(alone, found[0][is_wanted[0].sum() :][: len(alone)])


def test_packed_rows_can_be_recomputed(tmp_path):
    folder = write_config(
        tmp_path, model_type="a2d-qwen2", mask_token_id=95, eos_token_id=1, **SIZES
    )
    model = random_denoiser(folder, generator=torch.Generator().manual_seed(0)).train()
    weight = model.blocks[0].mlp.up_proj.weight
    plain = torch.autograd.grad(model.hidden_at(PADDED, MASK, MASK, packed=True).sum(), weight)
    model.enable_gradient_checkpointing()
    again = torch.autograd.grad(model.hidden_at(PADDED, MASK, MASK, packed=True).sum(), weight)
    assert torch.equal(plain[0], again[0])
