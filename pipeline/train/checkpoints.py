"""Saving and restoring the state of a training run: safetensors for weights, no pickled objects."""

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from pipeline.errors import CheckpointError
from pipeline.train.loop import TrainState
from weft.models import load_denoiser, save_denoiser

_OPTIMIZER_FILE = "optimizer.pt"
_STATE_FILE = "state.json"


def save_state(state: TrainState, folder: Path, recipe: str) -> None:
    """Write weights, optimizer, schedule, step and metric history into ``folder``."""
    save_denoiser(state.denoiser, folder)
    torch.save(state.optimizers.state_dict(), folder / _OPTIMIZER_FILE)
    facts = {"step": state.step, "recipe": recipe, "history": state.history}
    (folder / _STATE_FILE).write_text(json.dumps(facts))


def restore_state(state: TrainState, folder: Path, recipe: str) -> None:
    """Bring ``state`` to what ``save_state`` wrote into ``folder``.

    Raises CheckpointError when the folder belongs to another configuration or is damaged.
    """
    try:
        facts: dict[str, Any] = json.loads((folder / _STATE_FILE).read_text())
        if facts["recipe"] != recipe:
            raise CheckpointError(
                f"{folder}: wanted a state of configuration {recipe}, got {facts['recipe']}; "
                f"use --overwrite or another train.name"
            )
        saved = load_denoiser(str(folder))
        state.denoiser.load_state_dict(saved.state_dict())
        values = torch.load(folder / _OPTIMIZER_FILE, weights_only=True, map_location="cpu")
        state.optimizers.load_state_dict(values)
    except (OSError, EOFError, ValueError, KeyError, RuntimeError, UnpicklingError) as error:
        raise CheckpointError(
            f"{folder}: the training state cannot be read ({error}); use --overwrite to start anew"
        ) from error
    state.step, state.history = int(facts["step"]), list(facts["history"])
