"""Checkpoints on disk: what is written comes back bit for bit, and what does not fit is named."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from weft.models import (
    load_denoiser,
    load_tokenizer,
    meta_denoiser,
    random_denoiser,
    resolve_checkpoint,
    save_denoiser,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def test_the_embedded_base_is_small():
    weights = resolve_checkpoint("tiny") / WEIGHTS
    assert weights.stat().st_size <= 8_000_000
    assert 1e6 <= sum(tensor.numel() for tensor in load_file(weights).values()) <= 4e6


@pytest.fixture
def folder(tiny_checkpoint, tmp_path):
    """A copy of the checkpoint, to be damaged."""
    return shutil.copytree(tiny_checkpoint, tmp_path / "copy")


def edit_config(folder, **changes):
    values = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in values.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def edit_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def split_weights(folder):
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    files = {"model-1.safetensors": names[:20], "model-2.safetensors": names[20:]}
    for file, keys in files.items():
        save_file({key: tensors[key] for key in keys}, folder / file)
    places = {key: file for file, keys in files.items() for key in keys}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / WEIGHTS).unlink()


def assert_equal_weights(first, second):
    one, other = first.state_dict(), second.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def refusal(folder):
    with pytest.raises(ValueError, match=r".") as caught:
        load_denoiser(str(folder))
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_saving_and_loading_keeps_every_bit(tmp_path):
    original = random_denoiser("tiny", generator=torch.Generator().manual_seed(7))
    save_denoiser(original, tmp_path / "first")
    loaded = load_denoiser(str(tmp_path / "first"))
    assert_equal_weights(original, loaded)
    save_denoiser(loaded, tmp_path / "second")
    for name in (WEIGHTS, "config.json"):
        first, second = (tmp_path / part / name for part in ("first", "second"))
        assert first.read_bytes() == second.read_bytes()
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        assert torch.equal(original.eval()(ids), loaded.eval()(ids))


def test_saving_keeps_the_names_and_the_keys_of_the_llada_golden(shared_data, tmp_path):
    golden = shared_data / "golden" / "llada_tiny"
    save_denoiser(load_denoiser(str(golden)), tmp_path)
    wanted, found = load_file(golden / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)
    config = json.loads((golden / "config.json").read_text())
    assert json.loads((tmp_path / "config.json").read_text()) == config


def test_saving_leaves_no_other_files(tmp_path):
    save_denoiser(random_denoiser("tiny", generator=torch.Generator()), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", WEIGHTS]


def test_large_weights_are_saved_in_shards_that_load(tmp_path):
    original = random_denoiser("tiny", generator=torch.Generator().manual_seed(7))
    save_denoiser(original, tmp_path)
    save_denoiser(original, tmp_path, max_shard_size="1MB")
    names = {path.name for path in tmp_path.iterdir()}
    assert INDEX in names
    assert WEIGHTS not in names
    assert len(names) > 5
    assert_equal_weights(load_denoiser(str(tmp_path)), original)
    save_denoiser(original, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", WEIGHTS}


def test_loading_gives_trainable_weights_in_the_wanted_dtype(folder):
    model = load_denoiser(str(folder), dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert all(p.requires_grad and not p.is_meta for p in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())


def test_loading_reads_sharded_weights(folder, tiny_checkpoint):
    split_weights(folder)
    assert_equal_weights(load_denoiser(str(folder)), load_denoiser(str(tiny_checkpoint)))


def test_weights_saved_beside_older_shards_are_the_ones_that_load(folder):
    split_weights(folder)
    newer = random_denoiser("tiny", generator=torch.Generator().manual_seed(8))
    save_denoiser(newer, folder)
    assert_equal_weights(load_denoiser(str(folder)), newer)


def test_loading_converts_sharded_weights(folder, tiny_checkpoint):
    split_weights(folder)
    wanted = load_denoiser(str(tiny_checkpoint)).to(torch.bfloat16)
    assert_equal_weights(load_denoiser(str(folder), dtype=torch.bfloat16), wanted)


def test_loading_names_a_shard_that_is_missing(folder):
    split_weights(folder)
    (folder / "model-2.safetensors").unlink()
    assert "model-2.safetensors: not a whole safetensors file" in refusal(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_loading_names_a_damaged_index(folder, content):
    (folder / WEIGHTS).unlink()
    (folder / INDEX).write_text(content)
    assert f"{INDEX}: wanted JSON with a weight_map" in refusal(folder)


def test_tied_weights_are_stored_once_and_stay_tied(folder, tmp_path):
    edit_config(folder, weight_tying=True)
    model = random_denoiser(str(folder), generator=torch.Generator().manual_seed(1))
    save_denoiser(model, tmp_path / "tied")
    assert "model.transformer.ff_out.weight" not in load_file(tmp_path / "tied" / WEIGHTS)
    loaded = load_denoiser(str(tmp_path / "tied"))
    assert loaded.ff_out.weight is loaded.wte.weight
    assert_equal_weights(model, loaded)


def test_all_keys_that_are_missing_left_over_or_misshaped_are_listed(folder):
    prefix = "model.transformer."

    def change(tensors):
        del tensors[f"{prefix}ln_f.weight"]
        del tensors[f"{prefix}blocks.2.q_proj.weight"]
        tensors[f"{prefix}blocks.9.q_proj.weight"] = torch.zeros(1)
        tensors[f"{prefix}wte.weight"] = torch.zeros(3, 128)

    edit_weights(folder, change)
    message = refusal(folder)
    assert f"missing ['{prefix}blocks.2.q_proj.weight', '{prefix}ln_f.weight']" in message
    assert f"left over ['{prefix}blocks.9.q_proj.weight']" in message
    assert f"of another shape ['{prefix}wte.weight wanted [384, 128] got [3, 128]']" in message


@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights_are_named(folder, keep):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:keep])
    assert f"{WEIGHTS}: not a whole safetensors file" in refusal(folder)


def test_missing_weights_are_named(folder):
    (folder / WEIGHTS).unlink()
    assert f"wanted {WEIGHTS} or {INDEX}, found neither" in refusal(folder)


def test_pickled_weights_are_never_read(folder):
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")
    assert "found neither" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "llama"}, ["model_type: wanted one of llada, Dream,", "got 'llama'"]),
        ({"model_type": ...}, ["model_type: wanted one of llada, Dream,", "got None"]),
        ({"alibi": True}, ["alibi: wanted False, got True"]),
        ({"rope": False}, ["rope: wanted True, got False"]),
        ({"layer_norm_type": "default"}, ["layer_norm_type: wanted rms, got 'default'"]),
        ({"activation_type": "gelu"}, ["activation_type: wanted silu, got 'gelu'"]),
        ({"attention_dropout": 0.1}, ["attention_dropout: wanted 0.0, got 0.1"]),
        ({"include_bias": True, "clip_qkv": 8.0}, ["include_bias", "clip_qkv: wanted None"]),
        ({"d_model": ..., "n_layers": None}, ["d_model: missing", "n_layers: missing"]),
        ({"mask_token_id": ...}, ["mask_token_id: missing"]),
        ({"activation_type": "swiglu"}, ["activation_type: wanted silu, got 'swiglu'"]),
        ({"multi_query_attention": True}, ["multi_query_attention: wanted False or None"]),
        ({"bias_for_layer_norm": True}, ["bias_for_layer_norm: wanted False or None"]),
        ({"d_model": "128"}, ["d_model: wanted a whole number of at least 1, got '128'"]),
        ({"n_layers": True, "n_heads": 0}, ["n_layers: wanted a whole", "n_heads: wanted a whole"]),
        ({"eos_token_id": -1}, ["eos_token_id: wanted a whole number of at least 0, got -1"]),
        (
            {"rope_theta": "x", "rms_norm_eps": 0},
            ["rope_theta: wanted", "rms_norm_eps: wanted"],
        ),
        ({"weight_tying": "no"}, ["weight_tying: wanted true or false, got 'no'"]),
        ({"n_heads": 3}, ["d_model: wanted a multiple of twice n_heads (3), got 128"]),
        ({"n_kv_heads": 3}, ["n_kv_heads: wanted a divisor of n_heads (4), got 3"]),
        ({"embedding_size": 320}, ["embedding_size: wanted at least vocab_size (384), got 320"]),
        (
            {"mask_token_id": 384},
            ["mask_token_id: wanted an id below embedding_size (384)"],
        ),
    ],
)
def test_configurations_of_another_network_are_refused_naming_every_key(folder, changes, parts):
    edit_config(folder, **changes)
    message = refusal(folder)
    assert "config.json" in message
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(("content", "part"), [("{", "not valid JSON"), ("[]", "model_type")])
def test_damaged_configurations_are_named(folder, content, part):
    (folder / "config.json").write_text(content)
    assert part in refusal(folder)


def test_a_folder_without_configuration_is_named(folder):
    (folder / "config.json").unlink()
    assert "config.json: cannot be read" in refusal(folder)


def test_whole_numbers_are_taken_for_real_ones(folder, tiny_checkpoint):
    edit_config(folder, rope_theta=10000)
    ids = torch.arange(5, 25)[None]
    with torch.inference_mode():
        found, wanted = (load_denoiser(str(f)).eval()(ids) for f in (folder, tiny_checkpoint))
    assert torch.equal(found, wanted)


def test_defaults_of_absent_keys(folder):
    edit_config(folder, n_kv_heads=..., embedding_size=..., rms_norm_eps=..., weight_tying=...)
    architecture = load_denoiser(str(folder)).architecture
    assert (architecture.blocks.num_key_value_heads, architecture.vocab_size) == (4, 384)
    assert (architecture.blocks.rms_norm_eps, architecture.is_tied) == (1e-5, False)


def test_resolve_checkpoint_takes_names_and_folders(tiny_checkpoint):
    assert (resolve_checkpoint("tiny") / "config.json").is_file()
    assert resolve_checkpoint(str(tiny_checkpoint)) == tiny_checkpoint


def test_sizes_and_tokenizer_of_a_hub_name_do_not_fetch_its_weights(folder, monkeypatch):
    asked = []

    def download(name, *, allow_patterns):
        asked.append((name, "*.safetensors" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    meta_denoiser("owner/name")
    load_tokenizer("owner/name")
    assert set(asked) == {("owner/name", False)}
    load_denoiser("owner/name")
    assert ("owner/name", True) in asked


@pytest.mark.parametrize("path", ["tinny", "/no/such", "./owner/name", "a/b/c", "~/none", ""])
def test_resolve_checkpoint_refuses_what_is_no_checkpoint_without_asking_the_hub(path):
    with pytest.raises(ValueError, match="wanted a checkpoint folder, a hub name owner/name"):
        resolve_checkpoint(path)


def test_resolve_checkpoint_suggests_the_nearest_name():
    with pytest.raises(ValueError, match=r"did you mean tiny\?"):
        resolve_checkpoint("tinny")


def test_a_folder_without_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises((OSError, ValueError)):
        load_tokenizer(str(folder))
