"""The reference job against a bare loop of forward passes: ``python -m benchmarks.reference``.

Both take the embedded denoiser over the same puzzles in the same batches, with one thread in a
process of its own, and memory that is freed stays with either process (by default glibc hands large
pieces back to the system, and takes new ones, at each step). ``job_over_bare`` is tokens per second
of the job, from its first shard's start to its last one's end, over those of the loop, whose
batches are built beforehand; ``two_over_one`` is that of two actors over one. Then, on paper, the
cost for OpenR1-Math-220k with LLaDA-8B.
"""

import dataclasses
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from benchmarks.jobs import job_command, prepare_puzzles
from benchmarks.measure import median_ratio, print_results
from benchmarks.published import write_published
from pipeline import artifacts, storage
from pipeline.config import RunConfig
from pipeline.config_file import load_config
from pipeline.layout import layout
from pipeline.models import open_denoiser
from pipeline.reference.entropies import length_batches
from pipeline.sizes import size_text
from pipeline.train.estimate import forward_flops, model_size
from weft.batch import Batch, Example, reference_batch
from weft.entropy import reference_entropies
from weft.head import rows_within

_KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    puzzles: int = 12_000
    """In eight shards; short ones show what Ray starts with, not what it costs."""
    rounds: int = 3
    traces: int = 220_000
    trace_tokens: int = 5000
    """Mean length of a trace on paper."""
    h100_tflops: float = 989.0
    """Dense bfloat16 peak of an H100 SXM."""
    utilisation: float = 0.4
    """Share of the peak that the forward passes reach, on paper."""


def _job(config: Path, *arguments: str) -> float:
    """Tokens per second of the job, by its own clock."""
    command = job_command(
        "reference", config, "--overwrite", "--reference.num-cpus", "1", *arguments
    )
    subprocess.run(command, check=True, capture_output=True)
    manifest = artifacts.read_manifest(layout(load_config(str(config))).entropies)
    assert manifest is not None
    return float(manifest.facts["tokens_per_second"])


def _batches(config: RunConfig, eos_token_id: int) -> list[Batch]:
    """The job's batches."""
    folder, batches = layout(config).prepared, []
    manifest = artifacts.read_manifest(folder)
    assert manifest is not None
    for name in manifest.shards:
        rows = storage.read_table(storage.join(folder, name)).to_pylist()
        examples = [Example(r["example_id"], r["prompt_ids"], r["response_ids"]) for r in rows]
        tail = config.reference.tail
        lengths = [len(e.prompt_ids) + len(e.response_ids) + tail for e in examples]
        batches += [
            reference_batch(
                [examples[i] for i in indices],
                tail=tail,
                max_length=config.data.max_length + tail,
                eos_token_id=eos_token_id,
            )
            for indices in length_batches(lengths, config)
        ]
    return batches


def _in_a_process(run: Callable[[RunConfig], float], config: RunConfig) -> float:
    """What ``run`` returns in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, (config,))


def _bare(config: RunConfig) -> float:
    """Tokens per second of the forward passes and entropies alone, with one thread."""
    torch.set_num_threads(1)
    denoiser = open_denoiser(config.model.path)
    batches = _batches(config, denoiser.eos_token_id)
    chunk = rows_within(config.reference.head_chunk_mib, denoiser.vocab_size)
    started = time.perf_counter()
    for batch in batches:
        mask = batch.attention_mask if batch.is_padded else None
        reference_entropies(denoiser, batch.input_ids, mask, batch.is_maskable, chunk_size=chunk)
    seconds = time.perf_counter() - started
    return sum(int(batch.attention_mask.sum()) for batch in batches) / seconds


def _on_paper(settings: Settings) -> str:
    """Operations, GPU hours and storage for LLaDA-8B over the traces."""
    with tempfile.TemporaryDirectory() as folder:
        size = model_size(write_published(Path(folder), "llada8b"))
    tokens = settings.traces * settings.trace_tokens
    flops = forward_flops(size, num_tokens=tokens, length=settings.trace_tokens)
    hours = flops / (settings.h100_tflops * 1e12 * settings.utilisation) / 3600
    return (
        f"on paper, {settings.traces:,} traces of {settings.trace_tokens:,} tokens, LLaDA-8B: "
        f"{flops:.2e} FLOP, {hours:.1f} H100 hours at {100 * settings.utilisation:.0f} % of "
        f"{settings.h100_tflops:.0f} TFLOP/s, {size_text(4 * tokens)} of entropies before "
        f"compression"
    )


def main() -> None:
    """Parse the command line and measure."""
    settings = tyro.cli(Settings, description=__doc__)
    os.environ.update(_KEEP_MEMORY)  # read by the processes that are started from here
    with tempfile.TemporaryDirectory() as name:
        path = prepare_puzzles(Path(name), num_puzzles=settings.puzzles, num_shards=8)
        config = load_config(str(path))
        runs = {
            "job": lambda: _job(path),
            "bare": lambda: _in_a_process(_bare, config),
            "two": lambda: _job(path, "--reference.num-actors", "2"),
        }
        rates: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(settings.rounds):
            for name, run in runs.items():
                rates[name].append(run())
    print(json.dumps({name: [round(rate) for rate in found] for name, found in rates.items()}))
    print(_on_paper(settings))
    print(json.dumps(dataclasses.asdict(settings)))
    print_results(
        job_over_bare=median_ratio(rates["job"], rates["bare"]),
        two_over_one=median_ratio(rates["two"], rates["job"]),
    )


if __name__ == "__main__":
    main()
