"""What a WeFT step costs: ``python -m benchmarks.step``.

Forward, backward and optimizer step on the same batches: with frozen entropies, with online ones
(the published algorithm, a second forward pass), and plain SFT; with ``--compiled``, what
torch.compile makes of the blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import tyro

from benchmarks.measure import Run, median_ratio, print_results, seconds_in_turns
from benchmarks.problems import EOS, Sizes, random_examples, random_llada
from weft.batch import Batch, collate
from weft.method_config import MethodConfig
from weft.step import denoising_step


@dataclass(frozen=True, kw_only=True)
class Settings(Sizes):
    """Sizes of the problem."""

    num_batches: int = 4
    batch_size: int = 8
    question: int = 100
    response: int = 400
    width: int = 256
    num_layers: int = 4
    num_heads: int = 4
    vocab_size: int = 4096
    rounds: int = 9
    compiled: bool = False
    """Also WeFT with blocks that torch.compile made."""


def _batches(settings: Settings) -> list[Batch]:
    rng = np.random.default_rng(0)
    count = settings.num_batches * settings.batch_size
    responses = rng.integers(settings.response // 2, settings.response * 3 // 2, size=count)
    lengths = [(settings.question, int(n)) for n in responses]
    examples = random_examples(lengths, vocab_size=settings.vocab_size)
    return [
        collate(
            examples[start : start + settings.batch_size],
            seed=0,
            epoch=0,
            eps=1e-3,
            eos_policy="one",
            tail_max=0,
            max_length=settings.question + 2 * settings.response,
            eos_token_id=EOS,
        ).to(torch.device(settings.device))
        for start in range(0, count, settings.batch_size)
    ]


def _run(
    settings: Settings, batches: list[Batch], method: MethodConfig, *, is_compiled: bool = False
) -> Run:
    denoiser = random_llada(settings, max_length=settings.question + 2 * settings.response)
    if is_compiled:
        denoiser.compile_layers()
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        for batch in batches:
            denoising_step(denoiser, batch, method, packed=True).loss_sum.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main(settings: Settings) -> None:
    """Measure the three methods, and print what they cost beside SFT."""
    batches = _batches(settings)
    methods = {
        "sft": MethodConfig(gamma=0.0),
        "weft": MethodConfig(),
        "online": MethodConfig(entropies="online"),
    }
    runs = {name: _run(settings, batches, method) for name, method in methods.items()}
    if settings.compiled:
        runs["compiled"] = _run(settings, batches, methods["weft"], is_compiled=True)
    seconds = seconds_in_turns(runs, rounds=settings.rounds)
    for name in runs:
        print(f"{name}: {', '.join(f'{s:.2f}' for s in seconds[name])} s")
    results = {
        "weft_over_sft": median_ratio(seconds["weft"], seconds["sft"]),
        "online_over_sft": median_ratio(seconds["online"], seconds["sft"]),
    }
    if settings.compiled:
        results["compiled_over_weft"] = median_ratio(seconds["compiled"], seconds["weft"])
    print_results(**results)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
