"""Which examples make up each optimizer step, and how a step is shared among ranks.

A pure function of (example ids, lengths, seed, epoch, batch size): the steps of an epoch do not
depend on the world size, so a run resumed on another number of workers sees the same steps. How a
step is cut into micro-batches depends on the world size and the token budget as well.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.train.data import TrainingData
from pipeline.train.micro_batches import share_step
from weft.noise import noise_levels, shuffled_steps, stratified_steps, tail_length


@dataclass(frozen=True)
class BatchPlan:
    """The order of training over examples of ``lengths`` (tokens, a fixed tail included).

    ``tail_max`` above 0 says that a random tail follows each, up to ``max_length`` tokens in all.
    """

    example_ids: Sequence[str]
    lengths: Tensor
    seed: int
    eps: float
    stratified: bool
    batch_size: int
    micro_batch_tokens: int
    tail_max: int = 0
    max_length: int = 0
    is_packed: bool = False
    """Examples of a micro-batch stand one behind another, without padding."""

    @property
    def num_examples(self) -> int:
        """Examples of an epoch."""
        return len(self.example_ids)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; their sizes differ by at most one example."""
        return num_steps_of_epoch(self.num_examples, self.batch_size)

    def epoch_steps(self, epoch: int) -> list[list[int]]:
        """Indices of the examples of every optimizer step of ``epoch``; each occurs once.

        With ``stratified``, each step takes one example of each quantile of the epoch's noise
        levels, so that its levels are spread evenly although each example's own level is keyed
        by the example alone.
        """
        if not self.stratified:
            return shuffled_steps(
                self.num_examples, seed=self.seed, epoch=epoch, batch_size=self.batch_size
            )
        levels = noise_levels(self.seed, epoch, self.example_ids, eps=self.eps)
        return stratified_steps(levels, seed=self.seed, epoch=epoch, batch_size=self.batch_size)

    def micro_batches(
        self, step: Sequence[int], rank: int, world_size: int, *, epoch: int
    ) -> list[list[int]]:
        """The share of ``rank`` in a step; as many micro-batches as every other rank's.

        See ``pipeline.train.micro_batches``; one may be empty.
        """
        lengths = {index: self.canvas_length(epoch, index) for index in step}
        shares = share_step(
            lengths,
            world_size=world_size,
            budget=self.micro_batch_tokens,
            is_packed=self.is_packed,
        )
        return shares[rank]

    def canvas_length(self, epoch: int, index: int) -> int:
        """Tokens of example ``index`` in ``epoch``, its random tail included.

        At most too many: a truncated response gets no tail.
        """
        length = int(self.lengths[index])
        room = max(0, self.max_length - length)
        if not self.tail_max or not room:
            return length
        return length + min(
            room, tail_length(self.seed, epoch, self.example_ids[index], self.tail_max)
        )


def plan_of(config: RunConfig, data: TrainingData) -> BatchPlan:
    """The batch plan of a run over ``data``."""
    section = config.data
    lengths = data.lengths
    if section.eos_policy == "pad_to_max":
        lengths = np.maximum(lengths, section.max_length)
    return BatchPlan(
        example_ids=data.example_ids,
        lengths=as_lengths(lengths.tolist()),
        seed=config.run.seed,
        eps=config.noise.eps,
        stratified=config.noise.stratified,
        batch_size=config.train.batch_size,
        micro_batch_tokens=config.train.micro_batch_tokens,
        tail_max=section.tail_max if section.eos_policy == "random_tail" else 0,
        max_length=section.max_length,
        # Padding to the batch is EOS that is trained, which packing does not take out.
        is_packed=config.train.packing and section.eos_policy != "pad_to_batch",
    )


def num_steps_of_epoch(num_examples: int, batch_size: int) -> int:
    """Optimizer steps of an epoch, the last perhaps a little smaller than the others."""
    return -(-num_examples // batch_size)


def check_world_size(num_examples: int, batch_size: int, world_size: int) -> None:
    """Raise ConfigError when some step has fewer examples than there are workers."""
    smallest = num_examples // num_steps_of_epoch(num_examples, batch_size)
    if smallest < world_size:
        raise ConfigError(
            f"train.batch_size: every worker needs an example of every step; wanted steps of at "
            f"least {world_size} examples, got {smallest} ({num_examples} examples, batches of "
            f"{batch_size}); raise batch_size or lower train.num_workers"
        )


def total_steps(steps_per_epoch: int, epochs: int, max_steps: int) -> int:
    """Optimizer steps of a run; ``max_steps`` 0 means no limit."""
    steps = steps_per_epoch * epochs
    return min(steps, max_steps) if max_steps else steps


def as_lengths(values: Sequence[int]) -> Tensor:
    """[N] int64 lengths."""
    return torch.as_tensor(values, dtype=torch.int64)
