"""The training loop: a denoiser, a plan and a reporter. It knows torch.distributed, but no Ray."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.train.data import TrainingData, make_batch
from pipeline.train.exports import is_exported
from pipeline.train.held_out import NELBO
from pipeline.train.metrics import MetricSums, add_sums, summarize
from pipeline.train.parallel import accumulating, replicate, scale_and_clip
from pipeline.train.plan import BatchPlan, check_world_size
from pipeline.train.state import TrainState
from pipeline.train.world import World
from weft.batch import Batch
from weft.head import rows_within
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.step import StepSums, denoising_step

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Where a run's metrics and states go."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Take the metrics of the steps since the last call; only rank 0 calls it."""

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        """Save the state after ``step``; every rank calls it at the same step."""

    def export(self, step: int) -> None:
        """Keep the weights after ``step``, before the state; every rank calls it."""

    def measured(self, step: int, values: dict[str, float]) -> None:
        """Take what was measured on held-out examples; every rank calls it at the same step."""


class _StepModule(nn.Module):
    """The step as a module's forward, which is what DistributedDataParallel hooks into."""

    def __init__(self, denoiser: Denoiser, config: RunConfig, world: World) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.method = method_config(config)
        self.train_section, self.device_type = config.train, world.device.type
        self.dataset_beta_ref: float | None = None

    def forward(self, batch: Batch) -> tuple[Tensor, StepSums]:
        section = self.train_section
        is_autocast = section.precision == "bfloat16"
        with torch.autocast(self.device_type, dtype=torch.bfloat16, enabled=is_autocast):
            sums = denoising_step(
                self.denoiser,
                batch,
                self.method,
                dataset_beta_ref=self.dataset_beta_ref,
                chunk_rows=rows_within(section.head_chunk_mib, self.denoiser.vocab_size),
                packed=section.packing,
            )
        return sums.loss_sum, sums

    def use(self, data: TrainingData) -> None:
        """Train on ``data`` from now on, whose mean rate the scope ``dataset`` divides by."""
        if self.method.beta_ref == "dataset" and data.has_entropies:
            self.dataset_beta_ref = data.dataset_beta_ref(self.method.gamma)


def method_config(config: RunConfig) -> MethodConfig:
    """The method's own settings out of the sections [rates] and [objective]."""
    rates, objective = config.rates, config.objective
    return MethodConfig(
        objective=objective.name,
        gamma=rates.gamma,
        beta_ref=rates.beta_ref,
        rate_min=rates.rate_min,
        rate_max=rates.rate_max,
        tail=rates.tail,
        entropies="online" if rates.entropies == "online" else "frozen",
        online_estimator="nll" if config.reference.estimator == "nll" else "full_mask",
        weighting=objective.weighting,
        alpha=objective.alpha,
        cart_p=objective.cart_p,
        normalizer=objective.normalizer,
    )


def train(
    state: TrainState,
    data_of: Callable[[int], TrainingData],
    plan: BatchPlan,
    config: RunConfig,
    *,
    num_steps: int,
    world: World,
    reporter: Reporter,
    changes_at: Callable[[int], bool] = lambda step: False,
    held_out: Callable[[Denoiser], float] | None = None,
) -> None:
    """Run optimizer steps ``state.step`` to ``num_steps``, changing ``state`` in place.

    ``data_of`` gives the data of the steps from the given one on, until ``changes_at`` is true of
    a step: always the same examples, which ``plan`` is of. Every rank asks for the same steps.

    ``held_out`` measures the denoiser every ``train.held_out_every`` steps and at the end.

    Gradients are sums over the tokens of a step, divided by the normaliser's count over all
    micro-batches and ranks, so that neither changes the result beyond rounding.
    """
    check_world_size(plan.num_examples, plan.batch_size, world.size)
    step_module = _StepModule(state.denoiser, config, world)
    module = replicate(step_module, state.denoiser, world)
    state.denoiser.train()
    window = _Window()
    data = None
    for epoch, step_examples in _remaining_steps(plan, state.step, num_steps):
        if data is None or changes_at(state.step):
            with window.paused():
                data = data_of(state.step)
                step_module.use(data)
        with _dropout_draws(world, config.run.seed, state.step, world.rank):
            sums = _accumulate(
                module, state.denoiser, data, plan, config, epoch, step_examples, world
            )
        totals = _all_reduce(sums, world)
        # Normalised by masked tokens, a step may have none; its gradients are zero already.
        count = max(float(totals["normalizer_count"]), 1.0)
        # Ranks average their gradients; the method wants the sum.
        factor, limit = world.size / count, config.train.max_grad_norm
        grad_norm = scale_and_clip(state.denoiser, factor, limit)
        learning_rate = state.optimizers.learning_rate
        if _is_usable(grad_norm, state, config):
            state.optimizers.step()
            window.add(totals, grad_norm, learning_rate)
        else:
            state.optimizers.skip()
        state.optimizers.zero_grad()
        state.step += 1
        if is_exported(config, state.step, plan.steps_per_epoch, num_steps):
            with window.paused():
                reporter.export(state.step)
        measured = {}
        if held_out is not None and _is_due(config.train.held_out_every, state.step, num_steps):
            with window.paused():
                measured = {NELBO: held_out(state.denoiser)}
        _report(state, window, measured, config, num_steps, epoch, world, reporter)


def _remaining_steps(plan: BatchPlan, done: int, num_steps: int) -> Iterator[tuple[int, list[int]]]:
    step = done
    while step < num_steps:
        epoch, offset = divmod(step, plan.steps_per_epoch)
        for examples in plan.epoch_steps(epoch)[offset : offset + num_steps - step]:
            yield epoch, examples
            step += 1


@contextlib.contextmanager
def _dropout_draws(world: World, *key: int) -> Iterator[None]:
    """Dropout, which takes no generator, draws by ``key``: a resumed run draws the same.

    The global generators are what they were afterwards.
    """
    devices = [world.device] if world.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))
        yield


def _accumulate(
    module: nn.Module,
    denoiser: Denoiser,
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
        # An empty one has its place in the exchange between ranks, and nothing else.
        batch = make_batch(
            data,
            indices or step_examples[:1],
            config,
            seed=config.run.seed,
            epoch=epoch,
            eos_token_id=denoiser.eos_token_id,
        )
        with accumulating(module, is_last=number + 1 == len(batches)):
            loss, step_sums = module(batch.to(world.device))
            (loss if indices else loss * 0.0).backward()
        if indices:
            sums = add_sums(sums, step_sums.metric_sums())
    return sums


def _all_reduce(sums: MetricSums, world: World) -> MetricSums:
    """``sums`` added up over all ranks; the same on each of them."""
    if world.size == 1:
        return sums
    names = sorted(sums)
    flat = torch.cat([sums[name].detach().double().reshape(-1) for name in names]).to(world.device)
    dist.all_reduce(flat)
    parts = torch.split(flat, [sums[name].numel() for name in names])
    return {n: p.reshape(sums[n].shape) for n, p in zip(names, parts, strict=True)}


def _is_usable(grad_norm: float, state: TrainState, config: RunConfig) -> bool:
    """Whether the gradient may reach the weights; every rank sees the same norm.

    Raises ConfigError once more steps than ``train.max_skipped_steps`` had one that is not finite.
    """
    if math.isfinite(grad_norm):
        return True
    state.num_skipped += 1
    limit = config.train.max_skipped_steps
    logger.warning("step=%d skipped: grad_norm=%s", state.step + 1, grad_norm)
    if state.num_skipped > limit:
        raise ConfigError(
            f"step {state.step + 1}: wanted a finite gradient norm, got {grad_norm} for the "
            f"{state.num_skipped}. time (train.max_skipped_steps {limit}): training diverged; "
            f"lower train.learning_rate and train.muon_learning_rate, and start with --overwrite"
        )
    return False


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

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time that the block takes out."""
        began = time.monotonic()
        yield
        self.started += time.monotonic() - began

    def values(self) -> dict[str, float]:
        if not self.num_steps:
            return {}
        seconds = time.monotonic() - self.started
        return summarize(self.sums, seconds) | {
            "grad_norm": self.grad_norm_sum / self.num_steps,
            "learning_rate": self.learning_rate,
        }


def _is_due(every: int, step: int, num_steps: int) -> bool:
    return step == num_steps or bool(every and step % every == 0)


def _report(
    state: TrainState,
    window: _Window,
    measured: dict[str, float],
    config: RunConfig,
    num_steps: int,
    epoch: int,
    world: World,
    reporter: Reporter,
) -> None:
    saves = _is_due(config.train.checkpoint_every, state.step, num_steps)
    if not (saves or measured or state.step % config.train.log_every == 0):
        return
    values = {
        "step": float(state.step),
        "epoch": float(epoch),
        "num_skipped": float(state.num_skipped),
        **window.values(),
        **measured,
    }
    if window.num_steps or measured:  # else all were skipped
        state.history.append(values)
        if world.rank == 0:
            reporter.metrics(state.step, values)
    if saves:
        reporter.checkpoint(state.step, values)
    elif measured:
        reporter.measured(state.step, values)
    window.clear()  # its clock leaves out the time that saving took


def describe_device(world: World) -> dict[str, Any]:
    """The device, for the manifest."""
    name = torch.cuda.get_device_name() if world.device.type == "cuda" else "cpu"
    return {"device": name, "world_size": world.size, "threads": torch.get_num_threads()}
