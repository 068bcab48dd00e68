"""The denoiser that a configuration names, and what identifies its weights."""

import functools
from pathlib import Path

import torch

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest, fingerprint
from pipeline.config import RunConfig
from pipeline.errors import CheckpointError, ConfigError
from pipeline.layout import STATE_FOLDER, layout
from weft.models import (
    EMBEDDED,
    load_denoiser,
    random_denoiser,
    read_architecture,
    resolve_checkpoint,
)
from weft.models.base import Architecture, Denoiser
from weft.models.lora import adapter_base, is_adapter


def open_denoiser(
    path: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Denoiser:
    """The denoiser at ``path``, in evaluation mode; CheckpointError when it cannot be loaded."""
    try:
        return load_denoiser(path, device=device, dtype=dtype).eval()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the denoiser cannot be loaded: {error}") from error


def start_generator(config: RunConfig) -> torch.Generator:
    """What the weights that training starts with are drawn from: the run's seed."""
    return torch.Generator().manual_seed(config.run.seed)


def new_denoiser(
    config: RunConfig, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Denoiser:
    """The denoiser that training starts from: pretrained, or drawn anew with the run's seed."""
    if config.model.init == "pretrained":
        return open_denoiser(config.model.path, dtype=dtype, device=str(device))
    try:
        drawn = random_denoiser(config.model.path, generator=start_generator(config))
        drawn.cast(dtype)
        return drawn.to(device)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"model.path {config.model.path}: {error}") from error


def named_checkpoint(config: RunConfig, wanted: str, key: str) -> str:
    """The checkpoint ``wanted`` by the setting ``key``: a name under checkpoints/, or a path.

    Raises CheckpointError listing the names that there are, and as ``require_finished``.
    """
    own = layout(config).checkpoint(wanted)
    is_name = "/" not in wanted
    if is_name and wanted not in EMBEDDED and not storage.exists(own):
        there = ", ".join([*storage.list_files(layout(config).checkpoints), *EMBEDDED])
        raise CheckpointError(
            f"{key}: wanted one of {there}, or a folder with a slash in it (./NAME), got {wanted}; "
            f"jobs/train.py --train.name {wanted} would make it"
        )
    path = own if is_name and storage.exists(own) else wanted
    require_finished(path)
    return path


def require_finished(path: str) -> Manifest | None:
    """The manifest of a checkpoint of ours, wherever it lies; None for any other.

    Raises ArtifactError where training has not finished it.
    """
    signs = (STATE_FOLDER, artifacts.RECIPE, artifacts.MANIFEST)
    if path not in EMBEDDED and any(storage.exists(storage.join(path, name)) for name in signs):
        return artifacts.require(path, "train", hint="run jobs/train.py to the end")
    return None


def weights_fingerprint(path: str) -> str:
    """Fingerprint of a checkpoint's configuration and weight files.

    Raises CheckpointError where they cannot be read, ArtifactError where the checkpoint is one of
    ours and not finished or damaged.
    """
    manifest = require_finished(path)
    if manifest is not None:
        artifacts.verify_files(path, manifest)
    try:
        folder = resolve_checkpoint(path)
        if manifest is not None and is_adapter(folder):
            _require_same_base(folder, manifest)
        return _of_folder(str(folder))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be read: {error}") from error


def _require_same_base(folder: Path, manifest: Manifest) -> None:
    base, trained = adapter_base(folder), manifest.inputs["weights"]
    found = weights_fingerprint(base)
    if found != trained:
        raise CheckpointError(
            f"{folder}: an adapter of weights {trained}, but {base} has {found} now; put the "
            f"weights that it was trained on there, or train it again"
        )


@functools.lru_cache(maxsize=8)
def _of_folder(folder: str) -> str:
    path = Path(folder)
    names = sorted(p.name for p in path.glob("*.safetensors"))
    if not names:
        raise CheckpointError(f"{folder}: wanted *.safetensors weights, got none")
    names.append(artifacts.ADAPTER_CONFIG if is_adapter(path) else "config.json")
    checksums = {name: storage.sha256(storage.join(folder, name)) for name in names}
    base = weights_fingerprint(adapter_base(path)) if is_adapter(path) else ""
    return artifacts.weights_identity(checksums, base)


def _architecture(path: str) -> Architecture:
    require_finished(path)
    try:
        return read_architecture(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def check_context(path: str, num_tokens: int, what: str) -> None:
    """Raise ConfigError when ``num_tokens`` are more than the denoiser at ``path`` was made for.

    ``what`` names the settings that ask for them.
    """
    limit = _architecture(path).max_length
    if num_tokens > limit:
        raise ConfigError(
            f"{what}: wanted at most the {limit} tokens of {path}'s context, got {num_tokens}"
        )


def check_trainable(config: RunConfig) -> None:
    """Raise ConfigError where ``model.path`` is not what ``[train]`` asks for."""
    path = config.model.path
    if is_adapter(resolve_checkpoint(path, needs_weights=False)):
        raise ConfigError(
            f"model.path: {path} is a LoRA adapter, wanted a whole checkpoint to train; make one "
            f"with jobs/merge.py"
        )
    if config.train.packing:
        check_packing(path, "train.packing")


def check_packing(path: str, key: str) -> None:
    """Raise ConfigError where the denoiser at ``path`` cannot do what the setting ``key`` asks."""
    if not _architecture(path).can_pack:
        raise ConfigError(
            f"{key}: the attention of {path} cannot be limited to an example of several in a row; "
            f"turn it off"
        )


def check_cache(path: str, key: str) -> None:
    """Raise ConfigError where the denoiser at ``path`` cannot keep keys and values for ``key``."""
    if not _architecture(path).can_cache:
        raise ConfigError(f"{key}: {path} has no keys and values that can be kept; use none")


def start_fingerprint(config: RunConfig) -> str:
    """Identity of the weights that training starts from, but for the seed of random ones."""
    if config.model.init == "random":
        return fingerprint(["random", _architecture(config.model.path).values])
    return weights_fingerprint(config.model.path)
