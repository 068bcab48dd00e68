"""The memory estimate against a measured run: ``python -m benchmarks.memory``.

The training loop of the job, on random weights and random examples: what the estimate of
``--dry-run`` says over what it holds at its peak. On a CPU that is what the process gets from the
system while malloc hands back what is freed at once, which it does not do by default.

Further arguments are those of ``jobs/train.py``:
``--size llada8b --device cuda --config configs/llada8b_s1k_lora.toml --train.no-packing``.
"""

import dataclasses
import math
import os
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
import tyro

from benchmarks.measure import Run, peak_bytes, print_results
from benchmarks.problems import fill_randomly, random_training_data, trace_lengths
from benchmarks.published import PublishedName, write_published
from pipeline.cli import parse_arguments
from pipeline.config import RunConfig
from pipeline.train.capacity import largest_shape
from pipeline.train.loop import train
from pipeline.train.memory import step_memory
from pipeline.train.optim import build_optimizers
from pipeline.train.parallel import shard
from pipeline.train.plan import plan_of
from pipeline.train.start import meta_start
from pipeline.train.state import TrainState
from pipeline.train.world import World
from weft.models.base import Denoiser


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is trained, and where."""

    size: PublishedName = "qwen3_06b"
    num_layers: int = 0
    """Blocks instead of the published number; 0 leaves it."""
    vocab_size: int = 0
    """Vocabulary instead of the published one; 0 leaves it."""
    device: Literal["cpu", "cuda"] = "cpu"
    steps: int = 3
    lengths: tuple[int, ...] = ()
    """Tokens of the examples; empty: those of the real traces."""


@dataclass
class Reporter:
    """Keeps the tokens that were trained in a second, as the job reports them."""

    speeds: list[float] = field(default_factory=list)

    def metrics(self, _step: int, values: dict[str, float]) -> None:
        """See ``pipeline.train.loop.Reporter``."""
        self.speeds.append(values["tokens_per_second"])

    def checkpoint(self, _step: int, _values: dict[str, float]) -> None:
        """Nothing is saved."""


def train_randomly(config: RunConfig, settings: Settings, reporter: Reporter) -> Run:
    """A run of ``settings.steps`` optimizer steps, its weights already on the device."""
    device = torch.device(settings.device)
    if config.train.parallelism == "fsdp":
        _join_alone(settings.device)
    denoiser = random_start(config, device)
    optimizers = build_optimizers(denoiser, config.train, settings.steps)
    count = config.train.batch_size * settings.steps
    lengths = [(1, n - 1) for n in settings.lengths] or trace_lengths(config.data.max_length)
    lengths = (lengths * math.ceil(count / len(lengths)))[:count]
    data = random_training_data(lengths, vocab_size=denoiser.vocab_size)
    plan = plan_of(config, data)

    def run() -> None:
        train(
            TrainState(denoiser, optimizers),
            lambda step: data,
            plan,
            config,
            num_steps=settings.steps,
            world=World(device=device),
            reporter=reporter,
        )

    return run


def random_start(config: RunConfig, device: torch.device) -> Denoiser:
    """What training starts with, its weights drawn on ``device``."""
    denoiser = meta_start(config)
    if config.train.compile:
        denoiser.compile_layers()
    if config.train.parallelism == "fsdp":
        shard(denoiser, config.train, World(device=device))
    fill_randomly(denoiser, device, offloaded=config.train.cpu_offload)
    return denoiser


def _join_alone(device: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
    dist.init_process_group("nccl" if device == "cuda" else "gloo", rank=0, world_size=1)


def _peak(config: RunConfig, settings: Settings, reporter: Reporter) -> int:
    """Bytes at the peak, and the speeds in ``reporter``."""
    if settings.device == "cpu":
        os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**20))  # of the process that is made
        return peak_bytes(_run_all, config, settings)
    run = train_randomly(config, settings, reporter)
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated()


def _run_all(config: RunConfig, settings: Settings) -> Run:
    """Weights included in what is measured."""
    return lambda: train_randomly(config, settings, Reporter())()


def main(settings: Settings, arguments: list[str]) -> None:
    """Estimate, measure, and print the quotient."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_published(
            Path(folder),
            settings.size,
            num_layers=settings.num_layers,
            vocab_size=settings.vocab_size,
        )
        given = ["--model.path", path, "--train.num-workers", "1"]
        config = parse_arguments("train", [*arguments, *given, "--train.log-every", "1"]).run_config
        longest = max(settings.lengths or (config.data.max_length,))
        shape = largest_shape(config, config.train.batch_size, longest)
        started = time.perf_counter()
        memory = step_memory(config, shape)
        print(f"{shape}, estimated in {time.perf_counter() - started:.1f} s")
        for name, value in dataclasses.asdict(memory).items():
            print(f"  {name:<12} {value / 2**20:10,.0f} MiB")
        reporter = Reporter()
        peak = _peak(config, settings, reporter)
    print(f"measured {peak / 2**20:,.0f} MiB; tokens/s {[round(s) for s in reporter.speeds]}")
    if settings.device == "cuda":
        print(f"reserved {torch.cuda.max_memory_reserved() / 2**20:,.0f} MiB")
    print_results(
        estimate_over_measured=memory.peak / peak,
        tokens_per_second=max(reporter.speeds, default=0.0),
    )


if __name__ == "__main__":
    main(*tyro.cli(Settings, description=__doc__, return_unknown_args=True))
