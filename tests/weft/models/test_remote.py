"""Checkpoints on object storage, here in fsspec's memory."""

import fsspec
import pytest
import torch

from weft.models import load_denoiser, load_tokenizer, read_architecture, resolve_checkpoint
from weft.models.remote import fetch


@pytest.fixture
def address(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("WEFT_CACHE", str(tmp_path / "cache"))
    storage = fsspec.filesystem("memory")
    storage.put(f"{tiny_checkpoint}/", "/bucket/checkpoint/", recursive=True)
    storage.pipe_file("/bucket/checkpoint/state/optimizer.safetensors", b"not asked for")
    yield "memory://bucket/checkpoint"
    storage.rm("/bucket", recursive=True)


def test_a_remote_checkpoint_loads_as_the_local_one_does(address, tiny_checkpoint):
    wanted, found = (load_denoiser(str(path)).state_dict() for path in (tiny_checkpoint, address))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert load_tokenizer(address).get_vocab() == load_tokenizer(str(tiny_checkpoint)).get_vocab()


def test_weights_are_fetched_once_and_only_when_needed(address):
    read_architecture(address)
    small = resolve_checkpoint(address, needs_weights=False)
    assert not list(small.glob("*.safetensors"))
    whole = resolve_checkpoint(address)
    assert (whole / "model.safetensors").is_file()
    assert not (whole / "state").exists()
    time = (whole / "model.safetensors").stat().st_mtime_ns
    assert resolve_checkpoint(address) == whole
    assert (whole / "model.safetensors").stat().st_mtime_ns == time


def test_what_was_written_anew_is_fetched_anew(address):
    before = fetch(address, ["config.json"])
    content = (before / "config.json").read_bytes()
    fsspec.filesystem("memory").pipe_file("/bucket/checkpoint/config.json", content + b"\n")
    after = fetch(address, ["config.json"])
    assert (after / "config.json").read_bytes() == content + b"\n"
    assert (before / "config.json").read_bytes() == content


def test_a_copy_that_fails_leaves_nothing(address, tmp_path, monkeypatch):
    def fail(self, source, target, **options):
        raise OSError("connection reset")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", fail)
    with pytest.raises(OSError, match="connection reset"):
        fetch(address, ["*.json"])
    assert list((tmp_path / "cache" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("memory://bucket/nothing", "memory://bucket/nothing: the checkpoint cannot be read"),
        ("nosuch://bucket/checkpoint", "nosuch://bucket/checkpoint: .*Protocol not known"),
        ("memory://bucket", "wanted a checkpoint folder, got none of its files"),
    ],
)
def test_addresses_without_a_checkpoint_are_named(address, path, message):
    with pytest.raises(ValueError, match=message):
        resolve_checkpoint(path)
