"""Masked language models of transformers: the same logits, names and files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

from weft.head import weighted_cross_entropy
from weft.models import load_denoiser, load_tokenizer, random_denoiser, save_denoiser

SIZES = {
    "vocab_size": 80,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
IDS = torch.randint(3, 80, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=["modernbert", "bert"])
def checkpoint(request, tmp_path):
    """A folder as transformers saves it, and its network."""
    special = {f"{name}_token_id": n for n, name in enumerate(("bos", "eos", "cls", "sep"), 4)}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    no_dropout = dropout if request.param == "bert" else {}
    config = AutoConfig.for_model(request.param, **SIZES, **special, **no_dropout)
    network = AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    network.save_pretrained(tmp_path / "theirs")
    # The mask token is the tokenizer's, which no configuration names.
    write_tokenizer(tmp_path / "theirs")
    return tmp_path / "theirs", network


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocab = {f"<{n}>": n for n in range(79)} | {"[MASK]": 79}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="[MASK]").save_pretrained(folder)


def test_logits_and_special_tokens_are_the_networks_own(checkpoint):
    folder, network = checkpoint
    model = load_denoiser(str(folder)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(model(IDS), network(input_ids=IDS).logits, rtol=0, atol=1e-5)
    assert (model.mask_token_id, model.eos_token_id) == (79, 5)
    tokenizer = load_tokenizer(str(folder))
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id) == (79, 5)
    assert (model.vocab_size, model.max_length) == (80, 64)


def test_padding_changes_nothing(checkpoint):
    model = load_denoiser(str(checkpoint[0])).eval()
    mask = torch.arange(17).expand(2, -1) < 12
    with torch.inference_mode():
        found = model(torch.nn.functional.pad(IDS, (0, 5), value=9), mask)[:, :12]
        torch.testing.assert_close(found, model(IDS), rtol=1e-4, atol=1e-4)


def test_what_is_saved_transformers_loads(checkpoint, tmp_path):
    folder, network = checkpoint
    model = load_denoiser(str(folder))
    save_denoiser(model, tmp_path / "ours")
    wanted, found = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "ours"))
    assert wanted.keys() == found.keys()
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "ours").eval()
    with torch.inference_mode():
        assert torch.equal(again(input_ids=IDS).logits, network(input_ids=IDS).logits)


def test_gradients_reach_all_weights_through_the_head(checkpoint):
    """Those of the network that are tied to the output layer included."""
    folder, network = checkpoint
    model = load_denoiser(str(folder))
    hidden = model.hidden_states(IDS)[:, 2:].reshape(-1, 32)
    loss, _ = weighted_cross_entropy(
        hidden, IDS[:, 2:].reshape(-1), torch.ones(20), model.head, chunk_size=8
    )
    loss.backward()
    logits = network.train()(input_ids=IDS).logits[:, 2:].reshape(20, -1)
    torch.nn.functional.cross_entropy(logits, IDS[:, 2:].reshape(-1), reduction="sum").backward()
    wanted = dict(network.named_parameters())
    for name, parameter in model.named_parameters():
        other = wanted[name.removeprefix("network.")].grad
        torch.testing.assert_close(parameter.grad, other, rtol=1e-3, atol=1e-3)


def test_gradient_checkpointing_changes_nothing(checkpoint):
    model = load_denoiser(str(checkpoint[0])).train()
    plain = torch.autograd.grad(model(IDS).sum(), next(iter(model.parameters())))[0]
    model.enable_gradient_checkpointing()
    again = torch.autograd.grad(model(IDS).sum(), next(iter(model.parameters())))[0]
    torch.testing.assert_close(plain, again)


def test_random_weights_come_from_the_generator(checkpoint):
    first = random_denoiser(str(checkpoint[0]), generator=torch.Generator().manual_seed(3))
    second = random_denoiser(str(checkpoint[0]), generator=torch.Generator().manual_seed(3))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_keys_that_do_not_fit_are_listed(checkpoint):
    folder, _ = checkpoint
    tensors = load_file(folder / "model.safetensors")
    gone = min(name for name in tensors if name.endswith("0.mlp.Wo.weight") or "0.output" in name)
    tensors["other.weight"] = tensors.pop(gone)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="do not fit") as caught:
        load_denoiser(str(folder))
    assert gone in str(caught.value)
    assert "other.weight" in str(caught.value)


def test_a_network_with_a_decoder_of_its_own_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bart"}))
    with pytest.raises(ValueError, match="without a decoder"):
        load_denoiser(str(tmp_path))


def test_packing_is_refused(checkpoint):
    model = load_denoiser(str(checkpoint[0]))
    with pytest.raises(ValueError, match="packing wants blocks"):
        model.hidden_at(IDS, None, IDS > 0, packed=True)
