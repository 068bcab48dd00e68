"""Examples that are kept out of training, and what a denoiser thinks of them.

The noise is that of ``data.seed`` and the examples alone, so that trainings which differ in
anything else are measured on the same examples, noise levels and masks.
"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist

from pipeline import artifacts
from pipeline.config import RunConfig
from pipeline.layout import layout
from pipeline.train.data import TrainingData, load_training_data, make_batch
from pipeline.train.micro_batches import share_step
from pipeline.train.world import World
from weft.batch import Batch
from weft.entropy import evaluation_mode
from weft.head import rows_within
from weft.models.base import Denoiser
from weft.nelbo import even_levels, nelbo_sums
from weft.noise import uniform_draws

NELBO = "held_out_nelbo"
"""Name of the measure: nats a token, less is better."""

_EPS = 1e-3
"""Smallest noise level that is measured, whatever is trained with."""


def choose_held_out(config: RunConfig, example_ids: Sequence[str]) -> np.ndarray:
    """Which of ``example_ids`` are held out, a choice by ``data.seed``: [N] bool."""
    draws = uniform_draws(config.data.seed, 0, example_ids, "held_out").numpy()
    chosen = np.zeros(len(example_ids), dtype=bool)
    chosen[np.argsort(draws, kind="stable")[: config.train.held_out]] = True
    return chosen


def open_split(
    config: RunConfig, *, uses_entropies: bool
) -> tuple[TrainingData, TrainingData | None]:
    """What is trained on and what is held out, mapped from the run's artifacts.

    Held out are the same examples whether training uses entropies or not.
    """
    everything = open_data(config, uses_entropies=uses_entropies)
    if not config.train.held_out:
        return everything, None
    prepared = open_data(config, uses_entropies=False) if uses_entropies else everything
    held_out = prepared.subset(choose_held_out(config, prepared.example_ids))
    names = set(held_out.example_ids)
    return everything.subset(np.array([e not in names for e in everything.example_ids])), held_out


def open_data(config: RunConfig, *, uses_entropies: bool) -> TrainingData:
    """All examples that can be trained on, mapped from the run's artifacts."""
    folders = layout(config)
    prepared = artifacts.require(folders.prepared, "prepare", hint="run jobs/prepare.py")
    if not uses_entropies:
        return load_training_data(folders.prepared, prepared, None, None)
    entropies = artifacts.require(folders.entropies, "reference", hint="run jobs/reference.py")
    return load_training_data(folders.prepared, prepared, folders.entropies, entropies)


class HeldOut:
    """Measures a denoiser on the held-out examples; every rank does its share."""

    def __init__(self, data: TrainingData, config: RunConfig, world: World) -> None:
        """``data`` are the held-out examples, all of them on every rank."""
        self.data, self.config, self.world = data, config, world
        self.levels = [
            even_levels(config.data.seed, draw, data.example_ids, eps=_EPS)
            for draw in range(config.train.held_out_draws)
        ]

    def __call__(self, denoiser: Denoiser) -> float:
        """The negative ELBO of ``denoiser``, nats a token; see ``weft.nelbo``."""
        train, device = self.config.train, self.world.device
        totals = torch.zeros(2, dtype=torch.float64)
        with evaluation_mode(denoiser):
            for draw in range(train.held_out_draws):
                for indices in self._shares():
                    batch = self._batch(indices or [0], draw, denoiser).to(device)
                    with torch.autocast(
                        device.type,
                        dtype=torch.bfloat16,
                        enabled=train.precision == "bfloat16",
                    ):
                        sums = nelbo_sums(
                            denoiser,
                            batch,
                            chunk_rows=rows_within(train.head_chunk_mib, denoiser.vocab_size),
                            packed=train.packing,
                        )
                    if indices:  # an empty share has its place in what ranks do together
                        totals += torch.stack([value.double() for value in sums]).cpu()
        if self.world.size > 1:
            totals = totals.to(device)
            dist.all_reduce(totals)
        return float(totals[0] / totals[1])

    def _shares(self) -> list[list[int]]:
        data, train = self.config.data, self.config.train
        tail = data.tail_max if data.eos_policy == "random_tail" else 0
        longest = [min(int(n) + tail, data.max_length) for n in self.data.lengths]
        if data.eos_policy == "pad_to_max":
            longest = [data.max_length] * len(longest)
        shares = share_step(
            dict(enumerate(longest)),
            world_size=self.world.size,
            budget=train.micro_batch_tokens,
            is_packed=train.packing and data.eos_policy != "pad_to_batch",
        )
        return shares[self.world.rank]

    def _batch(self, indices: list[int], draw: int, denoiser: Denoiser) -> Batch:
        batch = make_batch(
            self.data,
            indices,
            self.config,
            seed=self.config.data.seed,
            epoch=draw,
            eos_token_id=denoiser.eos_token_id,
        )
        batch.noise_level = self.levels[draw][indices].unsqueeze(1)
        return batch
