"""Saving and restoring the state of a training run: safetensors and JSON, no pickled objects.

Trainable weights and the optimizers' moments are tensors, each rank's own part of them where they
are spread over ranks; all else is in ``state.json``. A state can be restored on another number of
ranks.
"""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from pipeline.errors import CheckpointError
from pipeline.train.state import TrainState
from pipeline.train.world import World

_TENSORS, _FACTS = "state.safetensors", "state.json"


def save_state(state: TrainState, folder: Path, recipe: str, world: World | None = None) -> None:
    """Write this rank's part of the state into ``folder``; all ranks call it, each with its own.

    Ranks whose weights are replicas of one another's leave it to rank 0.
    """
    rank = (world or World()).rank
    tensors = _weights(state) | _moments(state)
    if any(isinstance(tensor, DTensor) for tensor in tensors.values()):
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(tensors, storage_writer=writer)
    elif rank == 0:
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, folder / _TENSORS)
    if rank == 0:
        facts = {
            "step": state.step,
            "num_skipped": state.num_skipped,
            "recipe": recipe,
            "history": state.history,
            "moments": [(name, key) for name, key, value in _kept(state) if value.ndim > 0],
            "counts": [(n, key, float(value)) for n, key, value in _kept(state) if value.ndim == 0],
            "schedules": state.optimizers.schedules(),
        }
        (folder / _FACTS).write_text(json.dumps(facts))


def restore_state(state: TrainState, folder: Path, recipe: str) -> None:
    """Bring ``state`` to what ``save_state`` wrote into ``folder``; all ranks call it.

    Raises CheckpointError when the folder belongs to another configuration or is damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
        if facts["recipe"] != recipe:
            raise CheckpointError(
                f"{folder}: wanted a state of configuration {recipe}, got {facts['recipe']}; "
                f"use --overwrite or another train.name"
            )
        _make_moments(state, facts["moments"], facts["counts"])
        _read_into(_weights(state) | _moments(state), folder)
        state.optimizers.restore_schedules(facts["schedules"])
        state.step, state.num_skipped = int(facts["step"]), int(facts["num_skipped"])
        state.history = list(facts["history"])
    except (
        *(OSError, ValueError, KeyError, TypeError, RuntimeError, AssertionError, SafetensorError),
        CheckpointException,
    ) as error:
        reason = str(error).strip().split("\n")[-1]
        raise CheckpointError(
            f"{folder}: the training state cannot be read ({reason}); use --overwrite to start anew"
        ) from error


@torch.no_grad()
def _read_into(tensors: dict[str, Tensor], folder: Path) -> None:
    """Fill ``tensors`` in place, each rank its own part."""
    is_spread = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    with warnings.catch_warnings():  # that a single process is a single process
        warnings.filterwarnings("ignore", message="torch.distributed is")
        load(
            dict(tensors),
            storage_reader=HuggingFaceStorageReader(str(folder)),
            no_dist=not is_spread,
        )


def _trainable(state: TrainState) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in state.denoiser.named_parameters() if p.requires_grad}


def _weights(state: TrainState) -> dict[str, Tensor]:
    return {f"model.{name}": parameter.data for name, parameter in _trainable(state).items()}


def _kept(state: TrainState) -> Iterator[tuple[str, str, Tensor]]:
    """``(parameter, key, value)`` of all that the optimizers keep with the parameters."""
    for name, parameter in _trainable(state).items():
        for key, value in state.optimizers.state_of(parameter).items():
            yield name, key, value


def _moments(state: TrainState) -> dict[str, Tensor]:
    """What is kept in the shape of the parameter."""
    return {f"optimizer.{name}.{key}": v for name, key, v in _kept(state) if v.ndim > 0}


def _make_moments(
    state: TrainState, moments: list[tuple[str, str]], counts: list[tuple[str, str, float]]
) -> None:
    """Room for what was kept in the parameters' shapes, and the single numbers beside it."""
    parameters = _trainable(state)
    for parameter in parameters.values():
        state.optimizers.state_of(parameter).clear()
    for name, key in moments:
        parameter = parameters[name]
        state.optimizers.state_of(parameter)[key] = torch.zeros_like(parameter.data)
    for name, key, value in counts:
        parameter = parameters[name]
        number = torch.tensor(value, dtype=torch.float32, device=parameter.device)
        state.optimizers.state_of(parameter)[key] = number
