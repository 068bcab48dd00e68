"""The training loop: a denoiser, a plan and a reporter. It knows torch.distributed, but no Ray."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.train.data import TrainingData
from pipeline.train.metrics import MetricSums, add_sums, summarize
from pipeline.train.optim import Optimizers
from pipeline.train.plan import BatchPlan, check_world_size
from weft.batch import Batch, collate
from weft.head import rows_within
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.step import StepSums, denoising_step


class Reporter(Protocol):
    """Where a run's metrics and states go."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of the steps since the last call; only rank 0 calls it."""

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        """Save the state after ``step``; every rank calls it at the same step."""


@dataclass
class TrainState:
    """What changes while training: everything that a resumed run needs beside its inputs."""

    denoiser: Denoiser
    optimizers: Optimizers
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class World:
    """This process's place among the data-parallel workers."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class _StepModule(nn.Module):
    """The step as a module's forward, which is what DistributedDataParallel hooks into."""

    def __init__(self, denoiser: Denoiser, run_step: Callable[[Denoiser, Batch], StepSums]) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.run_step = run_step

    def forward(self, batch: Batch) -> tuple[Tensor, StepSums]:
        sums = self.run_step(self.denoiser, batch)
        return sums.loss_sum, sums


def method_config(config: RunConfig) -> MethodConfig:
    """The method's own settings out of the sections [rates] and [objective]."""
    rates, objective = config.rates, config.objective
    return MethodConfig(
        gamma=rates.gamma,
        beta_ref=rates.beta_ref,
        rate_min=rates.rate_min,
        rate_max=rates.rate_max,
        tail=rates.tail,
        entropies=rates.entropies,
        weighting=objective.weighting,
        alpha=objective.alpha,
        normalizer=objective.normalizer,
    )


def train(
    state: TrainState,
    data: TrainingData,
    plan: BatchPlan,
    config: RunConfig,
    *,
    num_steps: int,
    world: World,
    reporter: Reporter,
    dataset_beta_ref: float | None = None,
) -> None:
    """Run optimizer steps ``state.step`` to ``num_steps``, changing ``state`` in place.

    Gradients are sums over the tokens of a step, divided by the normaliser's count over all
    micro-batches and ranks, so that neither changes the result beyond rounding.
    """
    check_world_size(plan.num_examples, plan.batch_size, world.size)
    module = _wrap(state.denoiser, config, world, dataset_beta_ref)
    state.denoiser.train()
    window = _Window()
    for epoch, step_examples in _remaining_steps(plan, state.step, num_steps):
        sums = _accumulate(module, data, plan, config, epoch, step_examples, world)
        totals = _all_reduce(sums, world)
        grad_norm = _scale_and_clip(state.denoiser, totals, config, world)
        _check_finite(grad_norm, state.step + 1)
        learning_rate = state.optimizers.learning_rate
        state.optimizers.step()
        state.optimizers.zero_grad()
        state.step += 1
        window.add(totals, grad_norm, learning_rate)
        _report(state, window, config, num_steps, epoch, world, reporter)


def _wrap(
    denoiser: Denoiser, config: RunConfig, world: World, dataset_beta_ref: float | None
) -> nn.Module:
    method = method_config(config)
    bfloat16 = config.train.precision == "bfloat16"

    def run_step(model: Denoiser, batch: Batch) -> StepSums:
        with torch.autocast(world.device.type, dtype=torch.bfloat16, enabled=bfloat16):
            return denoising_step(
                model,
                batch,
                method,
                dataset_beta_ref=dataset_beta_ref,
                chunk_rows=rows_within(config.train.head_chunk_mib, model.vocab_size),
            )

    module = _StepModule(denoiser, run_step)
    return DistributedDataParallel(module) if world.size > 1 else module


def _remaining_steps(plan: BatchPlan, done: int, num_steps: int) -> Iterator[tuple[int, list[int]]]:
    step = done
    while step < num_steps:
        epoch, offset = divmod(step, plan.steps_per_epoch)
        for examples in plan.epoch_steps(epoch)[offset : offset + num_steps - step]:
            yield epoch, examples
            step += 1


def _accumulate(
    module: nn.Module,
    data: TrainingData,
    plan: BatchPlan,
    config: RunConfig,
    epoch: int,
    step_examples: list[int],
    world: World,
) -> MetricSums:
    """Backward passes over this rank's micro-batches; gradients of sums are left in the module."""
    sums: MetricSums = {}
    batches = plan.micro_batches(step_examples, world.rank, world.size, epoch=epoch)
    for number, indices in enumerate(batches):
        batch = make_batch(data, indices, config, epoch, module_denoiser(module))
        is_last = number + 1 == len(batches)
        if isinstance(module, DistributedDataParallel) and not is_last:
            with module.no_sync():
                loss, step_sums = module(batch.to(world.device))
                loss.backward()
        else:
            loss, step_sums = module(batch.to(world.device))
            loss.backward()
        sums = add_sums(sums, step_sums.metric_sums())
    return sums


def module_denoiser(module: nn.Module) -> Denoiser:
    """The denoiser inside the step module, wrapped or not."""
    inner = module.module if isinstance(module, DistributedDataParallel) else module
    denoiser = inner.denoiser
    assert isinstance(denoiser, Denoiser)
    return denoiser


def make_batch(
    data: TrainingData, indices: list[int], config: RunConfig, epoch: int, denoiser: Denoiser
) -> Batch:
    """The batch of the examples ``indices`` with the noise of ``epoch``."""
    return collate(
        [data.example(index) for index in indices],
        seed=config.run.seed,
        epoch=epoch,
        eps=config.noise.eps,
        eos_policy=config.data.eos_policy,
        tail_max=config.data.tail_max,
        max_length=config.data.max_length,
        eos_token_id=denoiser.eos_token_id,
    )


def _all_reduce(sums: MetricSums, world: World) -> MetricSums:
    """``sums`` added up over all ranks; the same on each of them."""
    if world.size == 1:
        return sums
    names = sorted(sums)
    flat = torch.cat([sums[name].detach().double().reshape(-1) for name in names]).to(world.device)
    dist.all_reduce(flat)
    parts = torch.split(flat, [sums[name].numel() for name in names])
    return {n: p.reshape(sums[n].shape) for n, p in zip(names, parts, strict=True)}


def _scale_and_clip(
    denoiser: Denoiser, totals: MetricSums, config: RunConfig, world: World
) -> float:
    """Turn summed gradients into those of the normalised loss, clip them; their norm before."""
    # Normalised by masked tokens, a step may have none; its gradients are zero already.
    count = max(float(totals["normalizer_count"]), 1.0)
    parameters = [p for p in denoiser.parameters() if p.grad is not None]
    # DistributedDataParallel averages over ranks; the method wants the sum.
    scale = world.size / count
    for parameter in parameters:
        parameter.grad.mul_(scale)  # type: ignore[union-attr]
    limit = config.train.max_grad_norm
    norm = nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"))
    return float(norm)


def _check_finite(grad_norm: float, step: int) -> None:
    """Stop before a broken gradient reaches the weights; every rank sees the same norm."""
    if not math.isfinite(grad_norm):
        raise ConfigError(
            f"step {step}: wanted a finite gradient norm, got {grad_norm}: training diverged; "
            f"lower train.learning_rate and train.muon_learning_rate, and start with --overwrite"
        )


class _Window:
    """Sums over the steps since the last report, the time they took, and the last learning rate."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: MetricSums = {}
        self.grad_norm_sum, self.num_steps, self.learning_rate = 0.0, 0, 0.0
        self.started = time.monotonic()

    def add(self, totals: MetricSums, grad_norm: float, learning_rate: float) -> None:
        self.sums = add_sums(self.sums, totals)
        self.grad_norm_sum += grad_norm
        self.num_steps += 1
        self.learning_rate = learning_rate

    def values(self) -> dict[str, float]:
        seconds = time.monotonic() - self.started
        return summarize(self.sums, seconds) | {
            "grad_norm": self.grad_norm_sum / max(1, self.num_steps),
            "learning_rate": self.learning_rate,
        }


def _report(
    state: TrainState,
    window: _Window,
    config: RunConfig,
    num_steps: int,
    epoch: int,
    world: World,
    reporter: Reporter,
) -> None:
    is_last = state.step == num_steps
    saves = is_last or state.step % config.train.checkpoint_every == 0
    if not (saves or state.step % config.train.log_every == 0):
        return
    values = {"step": float(state.step), "epoch": float(epoch), **window.values()}
    state.history.append(values)
    if world.rank == 0:
        reporter.metrics(state.step, values)
    if saves:
        reporter.checkpoint(state.step, values)
    window.clear()  # its clock leaves out the time that saving took


def describe_device(world: World) -> dict[str, Any]:
    """The device, for the manifest."""
    name = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
    return {"device": name, "world_size": world.size, "threads": torch.get_num_threads()}
