"""LoRA: what is saved loads with peft into the published network, and the other way round."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.weft.models.test_decoders import IDS, autoregressive
from weft.models import load_denoiser, load_tokenizer, random_denoiser, read_architecture
from weft.models.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    LoraSettings,
    adapter_state,
    add_lora,
    load_adapter,
    merge_lora,
    save_adapter,
)

SMALL = LoraSettings(rank=4, alpha=8, dropout=0.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_adapter(denoiser, settings=SMALL):
    """An adapter as after training: its second matrices are no longer 0."""
    add_lora(denoiser, settings, generator=generator())
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.3, generator=generator(1))
    return denoiser.eval()


@pytest.fixture
def base(tmp_path):
    """An A2D checkpoint, and transformers' own network of it."""
    network = autoregressive("qwen3", tmp_path / "base")
    return tmp_path / "base", network


def logits(network):
    with torch.inference_mode():
        return network(input_ids=IDS, attention_mask=torch.zeros(2, 1, 12, 12)).logits


def test_a_new_adapter_changes_no_bit_and_trains_alone():
    denoiser = random_denoiser("tiny", generator=generator())
    ids = torch.arange(5, 25)[None]
    before = denoiser(ids)
    add_lora(denoiser, SMALL, generator=generator())
    assert torch.equal(denoiser(ids), before)
    trained = [name for name, p in denoiser.named_parameters() if p.requires_grad]
    assert len(trained) == 6 * 3 * 2
    assert all(".lora_" in name for name in trained)
    denoiser(ids).sum().backward()
    # The first matrices get no gradient while the second ones are 0.
    assert all(p.grad.any() for n, p in denoiser.named_parameters() if ".lora_B." in n)


def test_a_new_adapter_comes_from_the_generator():
    states = []
    for _ in range(2):
        denoiser = random_denoiser("tiny", generator=generator())
        add_lora(denoiser, SMALL, generator=generator(7))
        states.append(adapter_state(denoiser))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    # d1's rank at LLaDA's width: uniform within 1 / sqrt(width), as torch draws a linear layer
    first = states[0]["base_model.model.model.transformer.blocks.0.q_proj.lora_A.weight"]
    assert float(first.abs().max()) <= 128**-0.5
    assert float(first.std()) == pytest.approx((128 * 3) ** -0.5, rel=0.1)


def test_what_is_saved_peft_loads_into_the_network_of_transformers(base, tmp_path):
    folder, network = base
    denoiser = with_adapter(load_denoiser(str(folder)))
    save_adapter(denoiser, tmp_path / "adapter", settings=SMALL, base=str(folder))
    with torch.inference_mode():
        wanted = denoiser(IDS)
    assert not torch.allclose(wanted, logits(network), atol=0.1)
    adapted = PeftModel.from_pretrained(network, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(adapted), wanted, rtol=1e-4, atol=1e-4)


def test_what_peft_saved_of_the_network_of_transformers_loads(base, tmp_path):
    folder, network = base
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "up_proj", "down_proj"])
    adapted = get_peft_model(network, config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(0.0, 0.3, generator=generator(1))
    adapted.save_pretrained(tmp_path / "adapter")
    denoiser = load_denoiser(str(folder)).eval()
    load_adapter(denoiser, tmp_path / "adapter")
    with torch.inference_mode():
        torch.testing.assert_close(denoiser(IDS), logits(adapted), rtol=1e-4, atol=1e-4)


def test_an_adapter_is_a_checkpoint_like_any_other(base, tmp_path):
    folder, _ = base
    denoiser = with_adapter(load_denoiser(str(folder)))
    save_adapter(denoiser, tmp_path / "adapter", settings=SMALL, base=str(folder))
    loaded = load_denoiser(str(tmp_path / "adapter")).eval()
    assert any(".lora_" in name for name in loaded.state_dict())
    assert not any(p.requires_grad for p in loaded.parameters())
    with torch.inference_mode():
        assert torch.equal(loaded(IDS), denoiser(IDS))
    assert read_architecture(str(tmp_path / "adapter")).mask_token_id == 95


def test_merging_changes_nothing_but_rounding(base):
    folder, _ = base
    denoiser = with_adapter(load_denoiser(str(folder)))
    names = set(load_denoiser(str(folder)).state_dict())
    with torch.inference_mode():
        wanted = denoiser(IDS)
    merge_lora(denoiser)
    assert set(denoiser.state_dict()) == names
    assert all(p.requires_grad for p in denoiser.parameters())
    with torch.inference_mode():
        torch.testing.assert_close(denoiser(IDS), wanted, rtol=1e-4, atol=1e-4)


def test_names_are_those_of_lladas_published_modules(shared_data):
    denoiser = load_denoiser(str(shared_data / "golden" / "llada_tiny"))
    add_lora(denoiser, SMALL, generator=generator())
    modules = {name.partition(".lora_")[0] for name in adapter_state(denoiser)}
    prefix = "base_model.model.model.transformer.blocks."
    parts = ("q_proj", "k_proj", "v_proj")
    assert modules == {f"{prefix}{n}.{part}" for n in range(2) for part in parts}


@pytest.mark.parametrize(("wanted", "count"), [(("ff_out", "attn_out"), 2 * 2), ((), 3 * 2)])
def test_targets_are_named_as_in_the_familys_checkpoints(shared_data, wanted, count):
    """Of LLaDA's two kinds of ``ff_out``, the output layer is not adapted."""
    denoiser = load_denoiser(str(shared_data / "golden" / "llada_tiny"))
    settings = LoraSettings(rank=2, target_modules=wanted)
    add_lora(denoiser, settings, generator=generator())
    assert len(adapter_state(denoiser)) == 2 * count


def test_targets_that_there_are_not_are_named():
    denoiser = random_denoiser("tiny", generator=generator())
    settings = LoraSettings(target_modules=("q_proj", "o_proj"))
    with pytest.raises(ValueError, match=r"wanted some of attn_out, .*, got o_proj"):
        add_lora(denoiser, settings, generator=generator())


@pytest.fixture
def adapter(base, tmp_path):
    denoiser = with_adapter(load_denoiser(str(base[0])))
    save_adapter(denoiser, tmp_path / "adapter", settings=SMALL, base=str(base[0]))
    return tmp_path / "adapter"


def change_weights(adapter, change):
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    change(tensors)
    save_file(tensors, adapter / ADAPTER_WEIGHTS)


def test_keys_that_do_not_fit_are_listed(adapter):
    def change(tensors):
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
        tensors["base_model.model.other.lora_A.weight"] = tensors.pop(name)
        name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
        tensors[name] = tensors[name][:, :3].contiguous()

    change_weights(adapter, change)
    with pytest.raises(ValueError, match="does not fit") as caught:
        load_denoiser(str(adapter))
    message = str(caught.value)
    assert "missing ['base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight']" in message
    assert "left over ['base_model.model.other.lora_A.weight']" in message
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
    assert f"shape ['{name} wanted [4, 32] got [4, 3]']" in message


def test_an_adapter_of_another_network_is_refused(adapter):
    with pytest.raises(ValueError, match="of another network"):
        load_adapter(random_denoiser("tiny", generator=generator()), adapter)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"use_dora": True}, "wanted a plain LoRA, got one with use_dora"),
        ({"bias": "all"}, "wanted a plain LoRA, got one with bias"),
        ({"r": None}, "wanted the configuration of a LoRA"),
        ({"base_model_name_or_path": None}, "to name a checkpoint, got None"),
        ({"base_model_name_or_path": "no-such"}, "no-such: wanted a checkpoint folder"),
    ],
)
def test_adapters_that_cannot_be_used_are_refused(adapter, change, part):
    path = adapter / ADAPTER_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=part):
        load_denoiser(str(adapter))


def test_truncated_weights_are_named(adapter):
    content = (adapter / ADAPTER_WEIGHTS).read_bytes()
    (adapter / ADAPTER_WEIGHTS).write_bytes(content[:100])
    with pytest.raises(ValueError, match=rf"{ADAPTER_WEIGHTS}: not a whole"):
        load_denoiser(str(adapter))


def test_the_tokenizer_beside_an_adapter_is_the_one_that_is_read(tmp_path):
    denoiser = with_adapter(random_denoiser("tiny", generator=generator()))
    save_adapter(denoiser, tmp_path, settings=SMALL, base="tiny")
    load_tokenizer("tiny").save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path)).mask_token_id == 1


@pytest.mark.parametrize("model_type", ["modernbert", "bert"])
def test_masked_language_models_have_targets_of_their_own(model_type, tmp_path):
    config = transformers.AutoConfig.for_model(
        model_type,
        **{"vocab_size": 80, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "eos_token_id": 5, "pad_token_id": 0},
    )
    config.save_pretrained(tmp_path)
    load_tokenizer("tiny").save_pretrained(tmp_path)
    denoiser = random_denoiser(str(tmp_path), generator=generator())
    add_lora(denoiser, SMALL, generator=generator())
    assert len(adapter_state(denoiser)) == {"modernbert": 2 * 2, "bert": 2 * 2 * 3}[model_type]
