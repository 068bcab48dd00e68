"""What inference of a published model costs on one device: ``python -m benchmarks.inference``.

LLaDA-8B with random weights by default: passes of the published decoder, the block caches over it,
and reference entropies. ``decode_utilization`` and ``reference_utilization`` are the operations
that ``pipeline.train.estimate`` counts, over those of the device's peak in the time taken; the plan
of docs/reproduce.md rests on them. A threshold says nothing of random weights.
"""

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.measure import Run, median_ratio, print_results, seconds_in_turns
from benchmarks.problems import Device, fill_randomly, random_examples
from benchmarks.published import PublishedName, write_published
from pipeline.tables import text_table
from pipeline.train.estimate import forward_flops, model_size
from weft.batch import Batch, collate
from weft.decode_settings import DecodeSettings
from weft.entropy import reference_entropies
from weft.head import rows_within
from weft.models import meta_denoiser
from weft.models.base import Denoiser
from weft.sampling import Request, decode


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run, and where."""

    size: PublishedName = "llada8b"
    num_layers: int = 0
    """Blocks instead of the published number; 0 leaves it."""
    vocab_size: int = 0
    """Vocabulary instead of the published one; 0 leaves it."""
    device: Device = "cpu"
    """On a GPU the network is in bfloat16."""
    prompt: int = 200
    """Tokens of each prompt."""
    gen_lengths: tuple[int, ...] = (128, 256, 512)
    block_length: int = 32
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    """Canvases at a time; the last is what the utilization is that of."""
    cached_length: int = 256
    """Canvas of the comparison of caches, in half as many steps."""
    cached_batch: int = 8
    trace: int = 4096
    """Tokens of each of four examples whose entropies are computed."""
    rounds: int = 2
    peak_tflops: float = 989.0
    """Of an H100 or H200 in bfloat16, dense."""


def main(settings: Settings) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_published(
            Path(folder),
            settings.size,
            num_layers=settings.num_layers,
            vocab_size=settings.vocab_size,
        )
        size = model_size(path)
        denoiser = _random_denoiser(path, settings.device)
    peak = settings.peak_tflops * 1e12
    rows, utilization = [], 0.0
    for gen_length in settings.gen_lengths:
        length = settings.prompt + gen_length
        for batch_size in settings.batch_sizes:
            seconds = _seconds_of_pass(denoiser, settings, gen_length, batch_size)
            flops = forward_flops(size, num_tokens=batch_size * length, length=length)
            utilization = flops / seconds / peak
            per_canvas = seconds * (gen_length / 2) / batch_size
            cells = f"{1000 * seconds:.1f}", f"{100 * utilization:.1f} %", f"{per_canvas:.2f}"
            rows.append((str(gen_length), str(batch_size), *cells))
    print(
        text_table(("canvas", "batch", "ms a pass", "of the peak", "s a canvas"), rows), flush=True
    )
    caches = _caches(denoiser, settings)
    seconds = _seconds_of_reference(denoiser, settings)
    flops = forward_flops(size, num_tokens=4 * settings.trace, length=settings.trace)
    print_results(
        decode_utilization=utilization,
        prefix_speedup=median_ratio(caches["none"], caches["prefix"]),
        dual_speedup=median_ratio(caches["none"], caches["dual"]),
        reference_tokens_per_second=4 * settings.trace / seconds,
        reference_utilization=flops / seconds / peak,
    )


def _random_denoiser(path: str, device: str) -> Denoiser:
    denoiser = meta_denoiser(path).eval()
    denoiser.cast(torch.bfloat16 if device == "cuda" else torch.float32)
    fill_randomly(denoiser, torch.device(device))
    return denoiser


def _seconds_of_pass(
    denoiser: Denoiser, settings: Settings, gen_length: int, batch_size: int
) -> float:
    """Of the published decoder, in one step a block, which costs what any step does."""
    steps = gen_length // settings.block_length
    run = _decoding(denoiser, settings, batch_size, gen_length=gen_length, steps=steps)
    return min(seconds_in_turns({"": run}, rounds=settings.rounds)[""]) / steps


def _caches(denoiser: Denoiser, settings: Settings) -> dict[str, list[float]]:
    length = settings.cached_length
    runs = {
        cache: _decoding(
            denoiser,
            settings,
            settings.cached_batch,
            gen_length=length,
            steps=length // 2,
            cache=cache,
        )
        for cache in ("none", "prefix", "dual")
    }
    return seconds_in_turns(runs, rounds=1)


def _decoding(denoiser: Denoiser, settings: Settings, batch_size: int, **how: Any) -> Run:
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, settings.prompt)
    prompts = torch.randint(2, denoiser.vocab_size // 2, shape, generator=generator).tolist()
    wanted = DecodeSettings(block_length=settings.block_length, **how)
    requests = [Request(prompt) for prompt in prompts]
    return lambda: list(decode(denoiser, requests, wanted, batch_size=batch_size))


def _seconds_of_reference(denoiser: Denoiser, settings: Settings) -> float:
    batch = _traces(denoiser, settings).to(torch.device(settings.device))

    def run() -> None:
        reference_entropies(
            denoiser,
            batch.input_ids,
            None,
            batch.is_maskable,
            chunk_size=rows_within(512, denoiser.vocab_size),
            packed=True,
        )

    return min(seconds_in_turns({"": run}, rounds=settings.rounds)[""])


def _traces(denoiser: Denoiser, settings: Settings) -> Batch:
    lengths = [(settings.prompt, settings.trace - settings.prompt)] * 4
    examples = random_examples(lengths, vocab_size=denoiser.vocab_size // 2)
    return collate(
        [dataclasses.replace(example, tail_entropy=None) for example in examples],
        seed=0,
        epoch=0,
        eps=1e-3,
        eos_policy="one",
        tail_max=0,
        max_length=settings.trace,
        eos_token_id=denoiser.eos_token_id,
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
