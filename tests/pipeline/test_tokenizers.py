"""A tokenizer that does not fit its model, or another model's, is refused before anything runs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import RunConfig
from pipeline.errors import ArtifactError, CheckpointError
from pipeline.layout import STATE_FOLDER
from pipeline.models import check_context
from pipeline.reference import stage as reference
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import any_tokenizer_at, open_tokenizer_at, own_tokens
from weft.models import load_tokenizer


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "model"))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["eos_token_id", "mask_token_id"])
def test_ids_of_the_model_must_be_the_tokenizers(checkpoint: Path, name: str) -> None:
    change_json(checkpoint / "config.json", **{name: 7})
    with pytest.raises(CheckpointError, match=rf"{name}: wanted the tokenizer's [01] .* got 7"):
        open_tokenizer_at(str(checkpoint))


@pytest.mark.parametrize("token", ["mask_token", "eos_token"])
def test_a_token_that_only_the_model_names_is_taken_from_it(checkpoint: Path, token: str) -> None:
    path, whole = checkpoint / "tokenizer_config.json", open_tokenizer_at("tiny")
    values = json.loads(path.read_text())
    name = values.pop(token)
    path.write_text(json.dumps(values))
    tokenizer = open_tokenizer_at(str(checkpoint))
    assert getattr(tokenizer, token) == name
    assert tokenizer(f"1{name}")["input_ids"] == whole(f"1{name}")["input_ids"]


def test_every_token_needs_an_embedding(checkpoint: Path) -> None:
    change_json(checkpoint / "config.json", embedding_size=64, vocab_size=64)
    with pytest.raises(CheckpointError, match="tokens, got 64"):
        open_tokenizer_at(str(checkpoint))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", '{"model": {"type": "NewKind"}}'),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[]"),
        ("tokenizer.json", '{"version"'),
        ("tokenizer_config.json", "[]"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_one_line(
    checkpoint: Path, name: str, content: str
) -> None:
    (checkpoint / name).write_text(content)
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read") as raised:
        open_tokenizer_at(str(checkpoint))
    assert "\n" not in str(raised.value)


def test_an_unfinished_checkpoint_of_ours_says_so_first(tmp_path: Path) -> None:
    (tmp_path / STATE_FOLDER).mkdir()
    for opened in (open_tokenizer_at, lambda path: check_context(path, 8, "data.max_length")):
        with pytest.raises(ArtifactError, match=r"run jobs/train\.py to the end"):
            opened(str(tmp_path))


@pytest.mark.parametrize(
    "template", [None, "{{ raise_exception('no such role') }}", "{{ messages + 1 }}"]
)
def test_a_chat_without_a_usable_template_is_one_line(
    checkpoint: Path, template: str | None
) -> None:
    (checkpoint / "chat_template.jinja").unlink()
    if template:
        (checkpoint / "chat_template.jinja").write_text(template)
    tokenizer = open_tokenizer_at(str(checkpoint))
    with pytest.raises(CheckpointError, match="wanted a chat template"):
        prompt_ids(tokenizer, "1+2")


def test_a_reference_model_needs_the_tokenizer_of_the_data(checkpoint: Path) -> None:
    state = json.loads((checkpoint / "tokenizer.json").read_text())
    vocabulary = state["model"]["vocab"]
    vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]
    (checkpoint / "tokenizer.json").write_text(json.dumps(state))
    section = dataclasses.replace(RunConfig().reference, checkpoint=str(checkpoint))
    with pytest.raises(CheckpointError, match=r"reference\.checkpoint .*wanted the tokenizer of"):
        reference.check_tokenizer(dataclasses.replace(RunConfig(), reference=section))
    same = dataclasses.replace(section, checkpoint="tiny")
    reference.check_tokenizer(dataclasses.replace(RunConfig(), reference=same))


def edit_tokenizer(folder: Path, change) -> None:
    state = json.loads((folder / "tokenizer.json").read_text())
    change(state)
    (folder / "tokenizer.json").write_text(json.dumps(state))


def test_an_autoregressive_model_may_lack_tokens_that_the_denoiser_alone_has(
    checkpoint: Path, tmp_path: Path
) -> None:
    assert own_tokens("tiny", str(checkpoint)) == set()
    tokenizer = load_tokenizer(str(checkpoint))
    plain = tmp_path / "plain"
    tokenizer.save_pretrained(plain)
    tokenizer.add_tokens(["<|think|>"], special_tokens=True)
    tokenizer.save_pretrained(checkpoint)
    values = json.loads((checkpoint / "config.json").read_text())
    sizes = {key: len(tokenizer) for key in ("vocab_size", "embedding_size") if key in values}
    change_json(checkpoint / "config.json", **sizes)
    any_tokenizer_at.cache_clear()
    open_tokenizer_at.cache_clear()
    own = len(tokenizer) - 1
    assert own_tokens(str(checkpoint), str(plain)) == {own}
    # The same token under another id is another tokenizer.
    other = tmp_path / "other"
    changed = load_tokenizer(str(plain))
    changed.add_tokens(["<|first|>", "<|think|>"], special_tokens=True)
    changed.save_pretrained(other)
    with pytest.raises(CheckpointError, match=r"\(added token <\|think\|> differ\)"):
        own_tokens(str(checkpoint), str(other))


def test_an_autoregressive_model_with_another_vocabulary_is_refused(checkpoint: Path) -> None:
    def swap(state):
        vocabulary = state["model"]["vocab"]
        vocabulary["0"], vocabulary["1"] = vocabulary["1"], vocabulary["0"]

    edit_tokenizer(checkpoint, swap)
    with pytest.raises(CheckpointError, match=r"tokenizer of tiny, got another one \(model"):
        own_tokens("tiny", str(checkpoint))


def test_an_autoregressive_model_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read"):
        own_tokens("tiny", str(tmp_path))
