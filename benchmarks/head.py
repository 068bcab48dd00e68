"""The head against dense logits: ``python -m benchmarks.head``.

Forward and backward of the masked tokens' cross-entropy at LLaDA's vocabulary, half of the
positions masked. Dense: logits of all positions and ``F.cross_entropy``, which skips the others.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks.measure import (
    Run,
    median_ratio,
    peak_bytes,
    print_results,
    seconds_in_turns,
)
from benchmarks.problems import Device
from weft.head import Head, weighted_cross_entropy

_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    length: int = 4096
    vocab_size: int = 126464
    width: int = 256
    chunk_rows: int = 256
    rounds: int = 5
    device: Device = "cpu"
    """On a GPU everything is in bfloat16."""


def _problem(settings: Settings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    with torch.device(settings.device):
        return _drawn(settings, torch.Generator(settings.device).manual_seed(0))


def _drawn(settings: Settings, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = torch.bfloat16 if settings.device == "cuda" else torch.float32
    hidden = torch.randn(settings.length, settings.width, generator=generator).to(dtype)
    weight = torch.randn(settings.vocab_size, settings.width, generator=generator).to(dtype) * 0.02
    targets = torch.randint(settings.vocab_size, (settings.length,), generator=generator)
    is_masked = torch.rand(settings.length, generator=generator) < 0.5
    return hidden.requires_grad_(), weight.requires_grad_(), targets, is_masked


def dense(settings: Settings) -> Run:
    """All logits at once."""
    hidden, weight, targets, is_masked = _problem(settings)
    labels = torch.where(is_masked, targets, _IGNORED)

    def run() -> None:
        hidden.grad = weight.grad = None
        logits = F.linear(hidden, weight)
        F.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="sum").backward()

    return run


def chunked(settings: Settings) -> Run:
    """Logits of the masked rows, a chunk at a time."""
    hidden, weight, targets, is_masked = _problem(settings)

    def run() -> None:
        hidden.grad = weight.grad = None
        rows = hidden[is_masked]
        loss_sum, _ = weighted_cross_entropy(
            rows,
            targets[is_masked],
            torch.ones(len(rows), device=settings.device),
            Head(weight),
            chunk_size=settings.chunk_rows,
        )
        loss_sum.backward()

    return run


def chunked_by_torch(settings: Settings) -> Run:
    """``torch.nn.functional.linear_cross_entropy``, which has weights of classes, not of rows."""
    hidden, weight, targets, is_masked = _problem(settings)
    rows = settings.chunk_rows
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)

    def run() -> None:
        hidden.grad = weight.grad = None
        F.linear_cross_entropy(
            hidden[is_masked], weight, targets[is_masked], reduction="sum", options=options
        ).backward()

    return run


def main(settings: Settings) -> None:
    """Measure all, and print what they need."""
    makers = (dense, chunked, chunked_by_torch)
    peaks = {make.__name__: peak_bytes(make, settings) for make in makers}
    runs = {make.__name__: make(settings) for make in makers}
    seconds = seconds_in_turns(runs, rounds=settings.rounds)
    for name in runs:
        shown = ", ".join(f"{s:.2f}" for s in seconds[name])
        print(f"{name}: {shown} s, peak {peaks[name] / 2**20:.0f} MiB")
    print_results(
        time_ratio=median_ratio(seconds["chunked"], seconds["dense"]),
        memory_ratio=peaks["chunked"] / peaks["dense"],
        torch_time_ratio=median_ratio(seconds["chunked_by_torch"], seconds["dense"]),
        torch_memory_ratio=peaks["chunked_by_torch"] / peaks["dense"],
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
