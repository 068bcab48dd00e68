"""Weight files: safetensors, in one file or in shards with an index; never pickled objects."""

import json
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def read_weights(folder: Path, *, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors in ``dtype``; of another dtype, no more than one file is held at a time.

    Raises ValueError for files that are missing or not whole.
    """
    from safetensors import SafetensorError

    tensors: dict[str, Tensor] = {}
    for name in weight_files(folder):
        try:
            part = load_file(folder / name, device=device)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{folder / name}: not a whole safetensors file: {error}") from error
        tensors |= {key: part.pop(key).to(dtype) for key in list(part)}
    return tensors


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
