"""What a WeFT step costs: ``python -m benchmarks.step``.

Forward, backward and optimizer step on the same batches, for each objective: WeFT with frozen
entropies and with online ones (the published algorithm, a second forward pass), the others, and
plain SFT; with ``--compiled``, what torch.compile makes of the blocks.
"""

from dataclasses import dataclass

import numpy as np
import torch
import tyro

from benchmarks.measure import Run, median_ratio, print_results, seconds_in_turns
from benchmarks.problems import EOS, Sizes, random_examples, random_llada
from weft.batch import Batch, collate
from weft.method_config import MethodConfig
from weft.models import Denoiser
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


def _training(settings: Settings) -> tuple[Denoiser, torch.optim.Optimizer]:
    denoiser = random_llada(settings, max_length=settings.question + 2 * settings.response)
    return denoiser, torch.optim.AdamW(denoiser.parameters(), lr=1e-5, fused=True)


def _run(
    training: tuple[Denoiser, torch.optim.Optimizer], batches: list[Batch], method: MethodConfig
) -> Run:
    denoiser, optimizer = training

    def run() -> None:
        for batch in batches:
            denoising_step(denoiser, batch, method, packed=True).loss_sum.backward()
            optimizer.step()
            optimizer.zero_grad()

    return run


def main(settings: Settings) -> None:
    """Measure the methods, and print what they cost beside SFT."""
    batches = _batches(settings)
    methods = {
        "sft": MethodConfig(gamma=0.0),
        "weft": MethodConfig(),
        "online": MethodConfig(entropies="online"),
        "token_weights": MethodConfig(objective="token_weights"),
        "dft": MethodConfig(objective="dft"),
        "cart": MethodConfig(objective="cart"),
        "lift": MethodConfig(objective="lift"),
    }
    training = _training(settings)  # one for all: what a step costs does not hang on the weights
    runs = {name: _run(training, batches, method) for name, method in methods.items()}
    if settings.compiled:
        compiled = _training(settings)
        compiled[0].compile_layers()
        runs["compiled"] = _run(compiled, batches, methods["weft"])
    seconds = seconds_in_turns(runs, rounds=settings.rounds)
    for name in runs:
        print(f"{name}: {', '.join(f'{s:.2f}' for s in seconds[name])} s")
    results = {
        f"{name}_over_sft": median_ratio(seconds[name], seconds["sft"])
        for name in methods
        if name != "sft"
    }
    if settings.compiled:
        results["compiled_over_weft"] = median_ratio(seconds["compiled"], seconds["weft"])
    print_results(**results)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
