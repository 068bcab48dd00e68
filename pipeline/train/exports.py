"""Checkpoints that are kept from the middle of a training: whole ones, each in its own folder."""

import dataclasses
import tempfile
from pathlib import Path

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.tokenizers import open_tokenizer
from pipeline.train.refresh import refresh_steps
from pipeline.train.start import save_result
from pipeline.train.world import World
from weft.models.base import Denoiser

EXPORTS = "exports"
"""Folder of them inside of a checkpoint."""


def export_folder(checkpoint: str, step: int) -> str:
    """Where the weights after ``step`` lie."""
    return storage.join(checkpoint, EXPORTS, f"step-{step:07d}")


def exported_steps(checkpoint: str) -> list[int]:
    """The steps whose weights are there, whole."""
    folder = storage.join(checkpoint, EXPORTS)
    names = [n for n in storage.list_files(folder) if n.startswith("step-")]
    steps = [int(name.removeprefix("step-")) for name in names]
    return [
        s
        for s in sorted(steps)
        if artifacts.read_manifest(export_folder(checkpoint, s)) is not None
    ]


def is_exported(config: RunConfig, step: int, steps_per_epoch: int, num_steps: int) -> bool:
    """Whether the weights after ``step`` are kept: for a refresh, or as ``export_every`` says."""
    every = config.train.export_every
    wanted = every and step % every == 0 and step < num_steps
    return bool(wanted) or step in refresh_steps(config, steps_per_epoch, num_steps)


def write_weights(denoiser: Denoiser, config: RunConfig, world: World, folder: str) -> list[str]:
    """The weights and the tokenizer, in the layout that the model was loaded from; their names.

    Every rank calls it; rank 0 writes.
    """
    with tempfile.TemporaryDirectory() as local:
        save_result(denoiser, Path(local), config, world)
        if world.rank != 0:
            return []
        open_tokenizer(config.model).save_pretrained(local)
        paths = sorted(Path(local).iterdir())
        for path in paths:
            storage.copy_in(str(path), storage.join(folder, path.name))
        return [path.name for path in paths]


def export(
    denoiser: Denoiser, config: RunConfig, world: World, folder: str, wanted: Manifest, step: int
) -> None:
    """Keep the weights after ``step`` in ``folder``, as a checkpoint that other stages can load.

    ``wanted`` is the manifest of the training that it is of. What an earlier try left whole stays:
    entropies may have been computed with it, and on other hardware these weights may differ.
    """
    found = artifacts.read_manifest(folder)
    if found is not None and found.recipe == wanted.recipe:
        return
    names = write_weights(denoiser, config, world, folder)
    if world.rank == 0:
        files = {name: artifacts.file_entry(storage.join(folder, name)) for name in names}
        artifacts.commit(folder, dataclasses.replace(wanted, files=files, facts={"steps": step}))
