"""What training starts from, and what it leaves: the denoiser, whole or spread over the ranks."""

from pathlib import Path

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from pipeline import storage
from pipeline.config import LoraSection, RunConfig
from pipeline.errors import CheckpointError, ConfigError
from pipeline.models import new_denoiser, start_generator
from pipeline.train.parallel import shard, whole_state
from pipeline.train.world import World
from weft.models import EMBEDDED, meta_denoiser, resolve_checkpoint, save_denoiser
from weft.models.base import Denoiser
from weft.models.blocks import BlockDenoiser
from weft.models.lora import LoraSettings, add_lora, initialize_lora, save_adapter
from weft.models.weights import read_headers, stored_dtype


def start_denoiser(config: RunConfig, world: World) -> Denoiser:
    """The denoiser as training wants it: with its adapter, on its device, perhaps spread.

    Raises CheckpointError where it cannot be loaded.
    """
    train = config.train
    is_streamed = train.parallelism == "fsdp" and config.model.init == "pretrained"
    if is_streamed:
        denoiser = _meta(config)
        is_streamed = isinstance(denoiser, BlockDenoiser)
    if not is_streamed:
        device = torch.device("cpu") if train.parallelism == "fsdp" else world.device
        denoiser = new_denoiser(config, dtype=_frozen_dtype(config), device=device)
    _adapt(denoiser, config)
    if train.compile:
        denoiser.compile_layers()
    if train.parallelism == "fsdp":
        shard(denoiser, train, world)
        if is_streamed:
            _fill(denoiser, config, world)
    return denoiser


def meta_start(config: RunConfig) -> Denoiser:
    """What ``start_denoiser`` returns on a worker that has all weights, without storage.

    Raises CheckpointError where ``model.path`` is no known architecture.
    """
    denoiser = _meta(config).train()
    _adapt(denoiser, config)
    return denoiser


def working_dtype(config: RunConfig) -> torch.dtype:
    """What the blocks compute in."""
    return torch.float32 if config.train.precision == "float32" else torch.bfloat16


def lora_settings(section: LoraSection) -> LoraSettings:
    """The adapter that ``section`` describes."""
    return LoraSettings(
        rank=section.rank,
        alpha=section.alpha,
        dropout=section.dropout,
        target_modules=section.target_modules,
    )


def save_result(denoiser: Denoiser, folder: Path, config: RunConfig, world: World) -> None:
    """Write the adapter, or the weights in the dtype of the checkpoint that training started from.

    All ranks call it; rank 0 writes.
    """
    state = whole_state(denoiser, world, only_trained=config.lora.enabled)
    if world.rank != 0:
        return
    if config.lora.enabled:
        settings, base = lora_settings(config.lora), _address(config.model.path)
        save_adapter(denoiser, folder, settings=settings, base=base, state=state)
    else:
        is_drawn = config.model.init == "random"
        path = config.model.path
        dtype = torch.float32 if is_drawn else stored_dtype(resolve_checkpoint(path))
        cast = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        save_denoiser(denoiser, folder, state=cast)


def _adapt(denoiser: Denoiser, config: RunConfig) -> None:
    """Put in what training adds to the network."""
    if config.lora.enabled:
        is_low = config.train.precision == "pure_bfloat16"
        try:
            add_lora(
                denoiser,
                lora_settings(config.lora),
                generator=start_generator(config),
                dtype=torch.bfloat16 if is_low else torch.float32,
            )
        except ValueError as error:
            raise ConfigError(f"lora.{error}") from error
    if config.train.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()


def _frozen_dtype(config: RunConfig) -> torch.dtype:
    """Of the weights that are loaded: those that are trained stay in float32 unless all is not."""
    precision = config.train.precision
    is_low = precision == "pure_bfloat16" or (precision == "bfloat16" and config.lora.enabled)
    return torch.bfloat16 if is_low else torch.float32


def _meta(config: RunConfig) -> Denoiser:
    try:
        denoiser = meta_denoiser(config.model.path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{config.model.path}: {error}") from error
    denoiser.cast(_frozen_dtype(config))
    return denoiser


def require_weights(config: RunConfig) -> None:
    """Raise CheckpointError where the weights that are to be spread do not fit the network."""
    if config.train.parallelism != "fsdp" or config.model.init != "pretrained":
        return
    denoiser = _meta(config)
    if isinstance(denoiser, BlockDenoiser):
        folder = resolve_checkpoint(config.model.path)
        try:
            denoiser.require_fit(read_headers(folder), folder)
        except ValueError as error:
            raise CheckpointError(f"{folder}: the denoiser cannot be loaded: {error}") from error


@torch.no_grad()
def _fill(denoiser: Denoiser, config: RunConfig, world: World) -> None:
    """Read each rank's own part of the weights, so that no rank ever holds all of them.

    See ``require_weights``, which has been asked before.
    """
    assert isinstance(denoiser, BlockDenoiser)
    folder = resolve_checkpoint(config.model.path)
    denoiser.to_empty(device="cpu" if config.train.cpu_offload else str(world.device))
    denoiser.tie()
    denoiser.compute_buffers(world.device)
    try:
        load(
            dict(denoiser.checkpoint_state()),
            storage_reader=HuggingFaceStorageReader(str(folder)),
        )
    except (OSError, ValueError, RuntimeError, CheckpointException) as error:
        raise CheckpointError(f"{folder}: the denoiser cannot be loaded: {error}") from error
    if config.lora.enabled:
        initialize_lora(denoiser, generator=start_generator(config))


def _address(path: str) -> str:
    """``path`` so that another working directory finds it too."""
    folder = Path(path).expanduser()
    is_local = path not in EMBEDDED and folder.is_dir()
    return storage.resolve(path) if is_local else path
