"""What each Ray Train worker runs: load, resume, train, report."""

import contextlib
import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import torch
import torch.distributed as dist

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.train.capacity import check_memory, largest_shape, on_workers
from pipeline.train.checkpoints import restore_state, save_state
from pipeline.train.data import TrainingData
from pipeline.train.exports import export, export_folder, write_weights
from pipeline.train.held_out import NELBO, HeldOut, open_split
from pipeline.train.job import Job
from pipeline.train.loop import describe_device, train
from pipeline.train.optim import build_optimizers
from pipeline.train.plan import BatchPlan, plan_of, total_steps
from pipeline.train.refresh import RefreshedData
from pipeline.train.start import require_weights, start_denoiser
from pipeline.train.state import TrainState
from pipeline.train.trackers import Tracker, open_trackers
from pipeline.train.world import World

logger = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class _Inputs:
    """What training reads, on each worker alike."""

    data: TrainingData
    held_out: TrainingData | None
    plan: BatchPlan
    num_steps: int


def train_job(job: Job) -> dict[str, Any]:
    """Train, and on rank 0 export the checkpoint to ``Job.folder``; facts for the manifest.

    What a user can mend comes back as ``{"error": ...}``: raised, it would make Ray Train start the
    workers again and again for nothing.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pipeline").setLevel(logging.INFO)
    world = _world(job.config)
    try:
        inputs = agreed(lambda: _open_inputs(job, world), world)
        state = agreed(lambda: _start_state(job, inputs.num_steps, world), world)
    except PipelineError as error:
        return {"error": error}
    began = time.time()
    try:
        _train(job, inputs, state, world)
    except PipelineError as error:  # of what all ranks share: none is left waiting
        return {"error": error}
    facts: dict[str, Any] = {
        "steps": state.step,
        "num_examples": len(inputs.data),
        "training_began": round(began, 1),
    }
    if inputs.held_out is not None:
        facts[NELBO] = round(state.history[-1][NELBO], 6)
    return describe_device(world) | facts


def _open_inputs(job: Job, world: World) -> _Inputs:
    """All that can fail on one worker alone, before any of them waits for another."""
    config = job.config
    data, held_out = open_split(config, uses_entropies=job.uses_entropies)
    plan = plan_of(config, data)
    # Fewer workers, to which it may come to, need more memory each.
    for number in {world.size, config.train.min_workers or world.size}:
        then = on_workers(config, number)
        shape = largest_shape(then, len(data), int(data.lengths.max()))
        check_memory(then, shape, world.device, ray.train.get_context().get_local_world_size())
    require_weights(config)
    num_steps = total_steps(plan.steps_per_epoch, config.train.epochs, config.train.max_steps)
    return _Inputs(data, held_out, plan, num_steps)


def agreed(make: Callable[[], T], world: World) -> T:
    """What ``make`` returns; where it fails on some rank, that PipelineError on every one.

    One rank's failure alone would leave the others waiting for it.
    """
    made: list[T] = []
    failure: PipelineError | None = None
    try:
        made.append(make())
    except PipelineError as error:
        failure = error
    failures = [failure]
    if world.size > 1:
        failures = [None] * world.size
        dist.all_gather_object(failures, failure)
    for found in failures:
        if found is not None:
            raise found
    return made[0]


def _train(job: Job, inputs: _Inputs, state: TrainState, world: World) -> None:
    reporter = RayReporter(job, state, world, inputs.num_steps)
    refreshed = RefreshedData(job.config, job.folder, inputs.data, inputs.plan.steps_per_epoch)
    with contextlib.closing(reporter):
        train(
            state,
            lambda step: agreed(lambda: refreshed(step), world),
            inputs.plan,
            job.config,
            num_steps=inputs.num_steps,
            world=world,
            reporter=reporter,
            changes_at=refreshed.changes_at,
            held_out=HeldOut(inputs.held_out, job.config, world) if inputs.held_out else None,
        )
    write_weights(state.denoiser, job.config, world, job.folder)
    if world.rank == 0:
        write_history(job.folder, state.history)


def _world(config: RunConfig) -> World:
    context = ray.train.get_context()
    if not config.train.use_gpu:
        # Nearly every batch has a shape of its own. oneDNN's default of 1,024 cached kernels then
        # fills gigabytes and slows training by a third within ten minutes. Read at its first use.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
        torch.set_num_threads(max(1, int(config.train.cpus_per_worker)))
    device = ray.train.torch.get_device()
    return World(context.get_world_rank(), context.get_world_size(), device)


def _start_state(job: Job, num_steps: int, world: World) -> TrainState:
    denoiser = start_denoiser(job.config, world)
    optimizers = build_optimizers(denoiser, job.config.train, num_steps)
    state = TrainState(denoiser, optimizers)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None and job.noted_state is not None:
        checkpoint = ray.train.Checkpoint(job.noted_state)
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            restore_state(state, Path(folder), job.wanted.recipe)
        if world.rank == 0:
            logger.info("resumed step=%d of=%d workers=%d", state.step, num_steps, world.size)
    return state


class RayReporter:
    """Metrics to the run's folder and to trackers, states to Ray Train's storage."""

    def __init__(self, job: Job, state: TrainState, world: World, num_steps: int) -> None:
        """Open the trackers on rank 0."""
        self.job, self.state, self.world, self.num_steps = job, state, world, num_steps
        self.first, self.began = state.step, time.monotonic()
        self.trackers: list[Tracker] = []
        if world.rank == 0:
            self.trackers = open_trackers(job.config, job.folder, job.wanted, step=state.step)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Log the values and when the end is to be expected, and show them elsewhere."""
        seconds_a_step = (time.monotonic() - self.began) / max(1, step - self.first)
        logger.info(
            "step=%d/%d loss=%.4f nll=%.4f tokens_per_second=%.0f seconds_left=%.0f",
            *(step, self.num_steps),
            # Not there where all steps since the last line were skipped.
            *(values.get(name, math.nan) for name in ("loss", "nll", "tokens_per_second")),
            seconds_a_step * (self.num_steps - step),
        )
        for tracker in self.trackers:
            tracker.log(step, values)

    def checkpoint(self, step: int, values: dict[str, float]) -> None:
        """Save the state through Ray Train, each rank its part; replicas leave it to rank 0."""
        with tempfile.TemporaryDirectory() as folder:
            save_state(self.state, Path(folder), self.job.wanted.recipe, self.world)
            has_part = any(Path(folder).iterdir())
            part = ray.train.Checkpoint.from_directory(folder) if has_part else None
            ray.train.report(values, checkpoint=part)
        if self.world.rank == 0:
            write_history(self.job.folder, self.state.history)

    def export(self, step: int) -> None:
        """Keep the weights, as a checkpoint of its own."""
        job, folder = self.job, export_folder(self.job.folder, step)
        agreed(
            lambda: export(self.state.denoiser, job.config, self.world, folder, job.wanted, step),
            self.world,
        )

    def measured(self, step: int, values: dict[str, float]) -> None:
        """Tell Ray, which may be asked to search by it."""
        ray.train.report(values)

    def close(self) -> None:
        """Flush what is buffered."""
        for tracker in self.trackers:
            tracker.close()


def write_history(folder: str, history: list[dict[str, float]]) -> None:
    """Metrics of all steps so far as ``metrics.jsonl``."""
    lines = "".join(json.dumps(values) + "\n" for values in history)
    storage.write_bytes(storage.join(folder, "metrics.jsonl"), lines.encode())
