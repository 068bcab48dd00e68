"""Checkpoints: ``config.json`` and safetensors, never pickled objects or remote code."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from weft.models.base import Denoiser
from weft.models.llada import LladaDenoiser
from weft.models.llada_config import LladaConfig
from weft.suggest import did_you_mean

EMBEDDED = {"tiny": Path(__file__).resolve().parent.parent / "assets" / "tiny"}
"""Checkpoints that come with the package, by name."""

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_FAMILIES = ("llada",)
_HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]


def resolve_checkpoint(path: str) -> Path:
    """The local folder of ``path``: an embedded name, a folder, or a hub name that is downloaded.

    Raises ValueError when it is none of these.
    """
    if path in EMBEDDED:
        return EMBEDDED[path]
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
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(
            f"{path}: there is no such folder, and as a hub name it cannot be downloaded: {reason}"
        ) from error


def load_denoiser(
    path: str, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Denoiser:
    """The denoiser at ``path``, its weights read once, straight to ``device`` in ``dtype``.

    Raises ValueError for a folder that holds no whole checkpoint of a known family.
    """
    folder = resolve_checkpoint(path)
    denoiser = meta_denoiser(path)
    denoiser.load_checkpoint_state(_read_weights(folder, str(device), dtype), str(folder))
    return _with_buffers(denoiser).to(device)


def random_denoiser(path: str, *, generator: torch.Generator) -> Denoiser:
    """A denoiser of the architecture at ``path`` whose weights are drawn from ``generator``."""
    denoiser = LladaDenoiser(_read_config(resolve_checkpoint(path)))
    denoiser.initialize(generator)
    return denoiser


def read_architecture(path: str) -> dict[str, Any]:
    """The values of the checked ``config.json`` at ``path``; ValueError for an unknown family."""
    return _read_config(resolve_checkpoint(path)).to_json()


def meta_denoiser(path: str) -> LladaDenoiser:
    """The architecture at ``path`` without storage, for counting and for loading."""
    config = _read_config(resolve_checkpoint(path))
    with torch.device("meta"):
        return LladaDenoiser(config)


def save_denoiser(denoiser: Denoiser, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` in the family's own layout.

    Each file appears whole or not at all. Raises ValueError for a family that cannot be saved.
    """
    if not isinstance(denoiser, LladaDenoiser):
        raise ValueError(f"save_denoiser: wanted a LLaDA denoiser, got {type(denoiser).__name__}")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().contiguous().cpu() for k, v in denoiser.checkpoint_state().items()}
    temporary = target / f".{_WEIGHTS}.tmp"
    save_file(state, temporary, metadata={"format": "pt"})
    os.replace(temporary, target / _WEIGHTS)
    text = json.dumps(denoiser.config.to_json(), indent=1, sort_keys=True) + "\n"
    temporary = target / ".config.json.tmp"
    temporary.write_text(text)
    os.replace(temporary, target / "config.json")


def load_tokenizer(path: str) -> Any:
    """The fast tokenizer beside the checkpoint at ``path``; OSError or ValueError without one.

    Where it names no mask token, as the published LLaDA's, the one of ``config.json`` is taken.
    """
    from transformers import PreTrainedTokenizerFast

    # The generic class reads tokenizer.json and the chat template of any family without its code.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(str(resolve_checkpoint(path)))
    if tokenizer.mask_token is None:
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(
            read_architecture(path)["mask_token_id"]
        )
    return tokenizer


def _with_buffers(denoiser: LladaDenoiser) -> LladaDenoiser:
    """Rotary frequencies are no part of a checkpoint: built on meta, they are computed here."""
    fresh = type(denoiser.rotary)(denoiser.rotary.config)
    denoiser.rotary = fresh
    return denoiser


def _read_config(folder: Path) -> LladaConfig:
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON: {error}") from error
    family = values.get("model_type") if isinstance(values, dict) else None
    if family not in _FAMILIES:
        raise ValueError(
            f"{path}: model_type: wanted one of {', '.join(_FAMILIES)}, got {family!r}"
        )
    return LladaConfig.from_json(values, str(path))


def _read_weights(folder: Path, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors in ``dtype``; of another dtype, no more than one file is held at a time."""
    from safetensors import SafetensorError

    names = _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            part = load_file(folder / name, device=device)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file: {error}") from error
        tensors |= {key: part.pop(key).to(dtype) for key in list(part)}
    return tensors


def _weight_files(folder: Path) -> list[str]:
    # The single file first, as transformers does: it is what ``save_denoiser`` writes, perhaps into
    # a folder whose older shards and index are still there.
    if (folder / _WEIGHTS).is_file():
        return [_WEIGHTS]
    if (folder / _INDEX).is_file():
        try:
            index = json.loads((folder / _INDEX).read_text())
            # Names alone: an index must not lead out of its folder.
            return sorted({Path(name).name for name in index["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / _INDEX}: wanted JSON with a weight_map, got {error!r}"
            ) from error
    raise ValueError(
        f"{folder}: wanted {_WEIGHTS} or {_INDEX}, found neither; the weights are missing"
    )
