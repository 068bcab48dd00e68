"""Checkpoints: ``config.json``, safetensors and tokenizer; never pickled objects or remote code."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weft.models.base import Architecture, Denoiser
from weft.models.families import architecture_of
from weft.models.lora import adapter_base, is_adapter, load_adapter
from weft.models.remote import fetch, is_remote
from weft.models.weights import write_weights
from weft.suggest import did_you_mean

EMBEDDED = {"tiny": Path(__file__).resolve().parent.parent / "assets" / "tiny"}
"""Checkpoints that come with the package, by name."""

_CONFIG = "config.json"
_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "*.model"]
_WEIGHT_FILES = ["*.safetensors"]
_MAX_SHARD_SIZE = "5GB"


def resolve_checkpoint(path: str, *, needs_weights: bool = True) -> Path:
    """The local folder of ``path``: an embedded name, a folder, or what is downloaded.

    That is a hub name, or an address of object storage. Without ``needs_weights`` its weights stay
    where they are. Raises ValueError when it is none of these.
    """
    if path in EMBEDDED:
        return EMBEDDED[path]
    patterns = [*_SMALL_FILES, *(_WEIGHT_FILES if needs_weights else [])]
    if is_remote(path):
        return fetch(path, patterns)
    folder = Path(path).expanduser()
    if path and folder.is_dir():  # an empty path would mean the working folder
        return folder
    if path.count("/") != 1 or path.startswith((".", "/", "~")):
        raise ValueError(
            f"{path}: wanted a checkpoint folder, a hub name owner/name, or one of "
            f"{', '.join(EMBEDDED)}{did_you_mean(path, EMBEDDED)}; there is no such folder"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: there is no such folder, and as a hub name it cannot be downloaded: {reason}"
        ) from error


def load_denoiser(
    path: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Denoiser:
    """The denoiser at ``path``, its weights in ``dtype`` on ``device``.

    A LoRA adapter is put into the checkpoint that it names, unmerged, in float32. Raises ValueError
    for a folder that holds no whole checkpoint of a known family.
    """
    folder = resolve_checkpoint(path)
    if not is_adapter(folder):
        return read_architecture(path).load(folder, dtype=dtype, device=str(device))
    denoiser = load_denoiser(adapter_base(folder), dtype=dtype, device=device)
    load_adapter(denoiser, folder)
    return denoiser


def random_denoiser(path: str, *, generator: torch.Generator) -> Denoiser:
    """A denoiser of the architecture at ``path`` whose weights are drawn from ``generator``."""
    denoiser = read_architecture(path).build()
    denoiser.initialize(generator)
    return denoiser


def meta_denoiser(path: str) -> Denoiser:
    """The architecture at ``path`` without storage, for counting and for loading."""
    with torch.device("meta"):
        return read_architecture(path).build()


def read_architecture(path: str) -> Architecture:
    """What the ``config.json`` at ``path``, or of the checkpoint that an adapter names, describes.

    Token ids that it lacks are those of the tokenizer beside it. Raises ValueError for a file that
    cannot be read, an unknown family, or values that do not fit it.
    """
    folder = _base_folder(path)
    return architecture_of(
        _read_config(folder), str(folder / _CONFIG), lambda name: _token_id(folder, name)
    )


def save_denoiser(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    state: dict[str, Tensor] | None = None,
    max_shard_size: str = _MAX_SHARD_SIZE,
) -> None:
    """Write ``config.json`` and the weights in the family's own layout.

    ``state`` stands in for the denoiser's own weights, under its own names, where those are spread
    over ranks. Each file appears whole or not at all.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = denoiser.checkpoint_state(state)
    write_weights(
        {name: tensor.detach().cpu() for name, tensor in weights.items()},
        target,
        max_shard_size=max_shard_size,
    )
    temporary = target / f".{_CONFIG}.tmp"
    text = json.dumps(denoiser.architecture.values, indent=1, sort_keys=True) + "\n"
    temporary.write_text(text)
    os.replace(temporary, target / _CONFIG)


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer beside the checkpoint at ``path``; OSError or ValueError without one.

    Where it names no mask token, as the published LLaDA's, or no EOS, as ModernBERT's, the one of
    ``config.json`` is taken.
    """
    tokenizer = _read_tokenizer(resolve_checkpoint(path, needs_weights=False))
    for name, keys in _SPECIAL_TOKENS.items():
        if getattr(tokenizer, name) is None:
            values = _read_config(_base_folder(path))
            number = next((values[key] for key in keys if values.get(key) is not None), None)
            if number is not None:
                setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(number))
    return tokenizer


_SPECIAL_TOKENS = {
    "mask_token": ("mask_token_id",),
    "eos_token": ("eos_token_id", "sep_token_id"),
}
"""Of a tokenizer, and the keys of ``config.json`` that say them too."""


def _base_folder(path: str) -> Path:
    """The folder with ``config.json``: of an adapter, that of its base."""
    folder = resolve_checkpoint(path, needs_weights=False)
    if not is_adapter(folder):
        return folder
    return resolve_checkpoint(adapter_base(folder), needs_weights=False)


def _read_tokenizer(folder: Path) -> Any:
    from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

    if not (folder / "tokenizer.json").is_file() and (folder / "merges.txt").is_file():
        # Dream comes as Qwen2's vocabulary and merges, with code of its own to read them.
        return Qwen2Tokenizer.from_pretrained(str(folder))
    # The generic class reads tokenizer.json and the chat template of any family without its code.
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def _token_id(folder: Path, name: str) -> int | None:
    """``mask_token_id`` or ``eos_token_id`` of the tokenizer; None if it has none."""
    try:
        found: int | None = getattr(_read_tokenizer(folder), name)
    except (OSError, ValueError):
        return None
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: wanted an object with a model_type, got {type(values).__name__}")
    return values
