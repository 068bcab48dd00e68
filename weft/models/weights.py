"""Weight files: safetensors, in one file or in shards with an index; never pickled objects."""

import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

Shapes = Mapping[str, Any]
"""Tensors by name, or what has a ``shape`` like them."""


class Header(NamedTuple):
    """What a file says of a tensor."""

    shape: tuple[int, ...]
    dtype: str


def read_weights(folder: Path, *, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors in ``dtype``; of another dtype, no more than one file is held at a time.

    Raises ValueError for files that are missing or not whole.
    """
    tensors: dict[str, Tensor] = {}
    for name in weight_files(folder):
        try:
            part = load_file(folder / name, device=device)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file: {error}") from error
        tensors |= {key: part.pop(key).to(dtype) for key in list(part)}
    return tensors


def require_fit(
    wanted: Shapes, found: Shapes, where: str, *, what: str = "the weights do not fit config.json"
) -> None:
    """Raise ValueError listing every key of ``found`` that is missing, left over or misshapen."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [
        f"{key} wanted {list(wanted[key].shape)} got {list(found[key].shape)}"
        for key in sorted(wanted.keys() & found.keys())
        if tuple(wanted[key].shape) != tuple(found[key].shape)
    ]
    if missing or extra or shapes:
        raise ValueError(
            f"{where}: {what}: missing {missing}, left over {extra}, of another shape {shapes}"
        )


def read_headers(folder: Path) -> dict[str, Header]:
    """Shape and dtype of every tensor in ``folder``, without reading any."""
    headers: dict[str, Header] = {}
    for name in weight_files(folder):
        try:
            with safe_open(folder / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 - no mapping
                    part = file.get_slice(key)
                    headers[key] = Header(tuple(part.get_shape()), part.get_dtype())
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file: {error}") from error
    return headers


def read_tensor(folder: Path, name: str) -> Tensor:
    """One tensor of those in ``folder``; KeyError where there is none of this name."""
    for file_name in weight_files(folder):
        with safe_open(folder / file_name, framework="pt") as file:
            if name in file.keys():  # noqa: SIM118 - no mapping
                tensor: Tensor = file.get_tensor(name)
                return tensor
    raise KeyError(name)


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of most of the weights in ``folder``."""
    sizes: Counter[str] = Counter()
    for header in read_headers(folder).values():
        sizes[header.dtype] += math.prod(header.shape)
    return _DTYPES.get(sizes.most_common(1)[0][0], torch.float32)


def weight_files(folder: Path) -> list[str]:
    """Names of the files that hold the weights; ValueError where there are none."""
    # The single file first, as transformers does.
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            index = json.loads((folder / INDEX).read_text())
            # Names alone: an index must not lead out of its folder.
            return sorted({Path(name).name for name in index["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{folder / INDEX}: wanted JSON with a weight_map, got {error!r}"
            ) from error
    raise ValueError(
        f"{folder}: wanted {WEIGHTS} or {INDEX}, found neither; the weights are missing"
    )


def write_weights(state: dict[str, Tensor], folder: Path, *, max_shard_size: str) -> None:
    """Write ``state`` as one file, or as shards of at most ``max_shard_size`` with their index.

    Each file appears whole or not at all. Weights of another split that were there are removed.
    """
    from huggingface_hub import save_torch_state_dict

    old = {p.name for p in [*folder.glob("model*.safetensors"), *folder.glob(INDEX)]}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".weights-") as temporary:
        save_torch_state_dict(state, temporary, max_shard_size=max_shard_size)
        new = sorted(path.name for path in Path(temporary).iterdir())
        for name in sorted(new, key=lambda n: n == INDEX):  # the index last, which names the others
            os.replace(Path(temporary) / name, folder / name)
    for name in sorted(old - set(new)):
        (folder / name).unlink()
