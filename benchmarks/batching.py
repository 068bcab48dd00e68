"""Packed micro-batches against padding: ``python -m benchmarks.batching``.

Real tokens (question, response and its EOS) trained in a second, on the lengths of real traces
cut at ``max_length``. Padded to ``max_length`` as d1 and LIFT do; a random batch of 8 padded to its
longest as dLLM does; and the batch plan, packed. All compute the same loss of the same examples,
but that the first two also train their padding. In a fourth run the packed examples have the random
tails of EOS that teach a denoiser to leave the rest of its canvas empty.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from benchmarks.measure import Run, median_ratio, print_results, seconds_in_turns
from benchmarks.problems import EOS, Sizes, random_examples, random_llada, trace_lengths
from pipeline.train.micro_batches import share_step
from weft.batch import Batch, Example, collate
from weft.method_config import EosPolicy, MethodConfig
from weft.models import Denoiser
from weft.noise import tail_length
from weft.step import denoising_step


@dataclass(frozen=True, kw_only=True)
class Settings(Sizes):
    """Sizes of the problem."""

    num_examples: int = 48
    max_length: int = 4096
    micro_batch_tokens: int = 8192
    dllm_batch: int = 8
    width: int = 128
    num_layers: int = 2
    num_heads: int = 4
    vocab_size: int = 512
    rounds: int = 3
    seed: int = 0
    tail_max: int = 512
    """Of the fourth run, as in the configurations for published denoisers."""


def _batch(
    examples: list[Example], policy: EosPolicy, settings: Settings, *, tail_max: int = 0
) -> Batch:
    return collate(
        examples,
        seed=0,
        epoch=0,
        eps=1e-3,
        eos_policy=policy,
        tail_max=tail_max,
        max_length=settings.max_length,
        eos_token_id=EOS,
    ).to(torch.device(settings.device))


def _padded(examples: list[Example], policy: EosPolicy, settings: Settings) -> Iterator[Batch]:
    """Batches in the order of ``examples``, as random as that is; as many rows as fit at once."""
    size = settings.dllm_batch if policy == "pad_to_batch" else 2
    for start in range(0, len(examples), size):
        yield _batch(examples[start : start + size], policy, settings)


def _packed(examples: list[Example], settings: Settings, *, tail_max: int) -> Iterator[Batch]:
    """Micro-batches of the plan; with ``tail_max`` a random tail of EOS behind each response."""
    room = settings.max_length
    lengths = {
        n: min(room, _length(e) + (tail_length(0, 0, e.example_id, tail_max) if tail_max else 0))
        for n, e in enumerate(examples)
    }
    budget = settings.micro_batch_tokens
    (groups,) = share_step(lengths, world_size=1, budget=budget, is_packed=True)
    policy: EosPolicy = "random_tail" if tail_max else "one"
    for group in groups:
        yield _batch([examples[n] for n in group], policy, settings, tail_max=tail_max)


def _length(example: Example) -> int:
    return len(example.prompt_ids) + len(example.response_ids)


def _run(denoiser: Denoiser, batches: list[Batch], *, packed: bool) -> Run:
    def run() -> None:
        denoiser.zero_grad()
        for batch in batches:
            denoising_step(denoiser, batch, MethodConfig(), packed=packed).loss_sum.backward()

    return run


def main(settings: Settings) -> None:
    """Measure the three, and print their speed."""
    rng = np.random.default_rng(settings.seed)
    lengths = trace_lengths(settings.max_length)
    chosen = [lengths[n] for n in rng.choice(len(lengths), settings.num_examples, replace=False)]
    examples = random_examples(chosen, vocab_size=settings.vocab_size)
    denoiser = random_llada(settings, max_length=settings.max_length)
    started = time.perf_counter()
    runs = {
        "pad_to_max": _run(denoiser, list(_padded(examples, "pad_to_max", settings)), packed=False),
        "pad_to_longest": _run(
            denoiser, list(_padded(examples, "pad_to_batch", settings)), packed=False
        ),
        "packed": _run(denoiser, list(_packed(examples, settings, tail_max=0)), packed=True),
        "packed_with_tails": _run(
            denoiser, list(_packed(examples, settings, tail_max=settings.tail_max)), packed=True
        ),
    }
    print(f"batches made in {time.perf_counter() - started:.1f} s")
    seconds = seconds_in_turns(runs, rounds=settings.rounds)
    tokens = sum(map(sum, chosen))
    bare = settings.max_length * len(chosen) / tokens
    print(f"{len(chosen)} examples, {tokens} tokens; lengths alone: {bare:.2f} times pad_to_max")
    for name in runs:
        speeds = ", ".join(f"{tokens / s:.0f}" for s in seconds[name])
        print(f"{name}: {speeds} tokens/s")
    print_results(
        over_pad_to_max=median_ratio(seconds["pad_to_max"], seconds["packed"]),
        over_pad_to_longest=median_ratio(seconds["pad_to_longest"], seconds["packed"]),
        with_tails_over_pad_to_max=median_ratio(
            seconds["pad_to_max"], seconds["packed_with_tails"]
        ),
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
