"""The tokenizer of the configured model, and what identifies it."""

import functools
import hashlib
import json
from typing import Any

from pipeline.artifacts import Manifest
from pipeline.config import ModelSection
from pipeline.errors import ArtifactError, CheckpointError
from pipeline.models import require_finished


def open_tokenizer(model: ModelSection) -> Any:
    """The tokenizer of ``model.path``; CheckpointError when it has none or lacks a mask token."""
    return open_tokenizer_at(model.path)


@functools.lru_cache(maxsize=4)
def open_tokenizer_at(path: str) -> Any:
    """The tokenizer beside the checkpoint at ``path``, with the same demands."""
    require_finished(path)
    tokenizer = any_tokenizer_at(path)
    for name in ("mask_token_id", "eos_token_id"):
        if getattr(tokenizer, name, None) is None:
            raise CheckpointError(
                f"{path}: wanted a tokenizer with a {name}, got none; add it to "
                f"tokenizer_config.json"
            )
    _check_fit(path, tokenizer)
    return tokenizer


@functools.lru_cache(maxsize=4)
def any_tokenizer_at(path: str) -> Any:
    """The tokenizer of any model at ``path``; CheckpointError when it cannot be read."""
    from weft.models import load_tokenizer

    try:
        return load_tokenizer(path)
    except Exception as error:  # the library raises bare exceptions for a file it cannot use
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {reason}") from error


def _check_fit(path: str, tokenizer: Any) -> None:
    """The ids that training and decoding take from config.json must be the tokenizer's own."""
    from weft.models import read_architecture

    try:
        architecture = read_architecture(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    for name in ("mask_token_id", "eos_token_id"):
        if getattr(architecture, name) != getattr(tokenizer, name):
            raise CheckpointError(
                f"{path}: {name}: wanted the tokenizer's {getattr(tokenizer, name)} in config.json "
                f"too, got {getattr(architecture, name)}; correct the one that is wrong"
            )
    if len(tokenizer) > architecture.vocab_size:
        raise CheckpointError(
            f"{path}: wanted an embedding for each of the tokenizer's {len(tokenizer)} tokens, got "
            f"{architecture.vocab_size}; this tokenizer is of another model"
        )


def tokenizer_fingerprints(model: ModelSection) -> dict[str, str]:
    """Fingerprints of the vocabulary with its merges, and of the chat template."""
    return tokenizer_fingerprints_at(model.path)


def tokenizer_fingerprints_at(path: str) -> dict[str, str]:
    """The same for the checkpoint at ``path``."""
    return tokenizer_fingerprints_of(open_tokenizer_at(path))


def tokenizer_fingerprints_of(tokenizer: Any) -> dict[str, str]:
    """The same for a tokenizer that is open."""
    state = tokenizer.backend_tokenizer.to_str()
    template = tokenizer.chat_template or ""
    return {"tokenizer": _short(str(state)), "chat_template": _short(str(template))}


def own_tokens(path: str, other: str) -> set[int]:
    """Ids of the denoiser at ``path`` that mean nothing to the autoregressive model at ``other``.

    These are tokens that were added to the denoiser's tokenizer alone, as its mask. Raises
    CheckpointError unless all others mean the same to both: vocabulary, merges and the way text is
    cut must be equal, and a token that was added to both must have one id.
    """
    tokenizers = open_tokenizer_at(path), any_tokenizer_at(other)
    states = [json.loads(t.backend_tokenizer.to_str()) for t in tokenizers]
    differing = [
        name
        for name in ("model", "normalizer", "pre_tokenizer")
        if states[0].get(name) != states[1].get(name)
    ]
    added = [{t["content"]: t["id"] for t in state["added_tokens"]} for state in states]
    wrong = sorted(t for t, i in added[0].items() if added[1].get(t, i) != i)
    if differing or wrong:
        what = ", ".join([*differing, *(f"added token {token}" for token in wrong)])
        raise CheckpointError(
            f"{other}: wanted the tokenizer of {path}, got another one ({what} differ); entropies "
            f"of other tokens say nothing of these"
        )
    return {i for token, i in added[0].items() if token not in added[1]}


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_tokenizer(folder: str, manifest: Manifest, wanted: dict[str, str]) -> None:
    """Raise ArtifactError when ``manifest`` was made with another tokenizer or chat template."""
    for name, value in wanted.items():
        found = manifest.inputs.get(name)
        if found != value:
            raise ArtifactError(
                f"{folder}: made with {name.replace('_', ' ')} {found}, but model.path has "
                f"{value}; "
                f"run jobs/{manifest.stage}.py again with this configuration"
            )
