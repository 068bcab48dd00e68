"""Decoders against the reference decoder: ``python -m benchmarks.decode``.

On a fine-tuned tiny denoiser over generated held-out problems: ``speedup`` is tokens per second (up
to EOS) of prefix cache, threshold and early stop together over ``plain``, the decoder of LLaDA's
``generate.py``; ``accuracy_difference`` is that of their accuracies on the same items, with its
95 % interval. ``speedup_large`` is that of the dual cache over plain on a random LLaDA of 110
million parameters, where a threshold says nothing. With ``--figure`` the accuracies of all decoders
over their forward passes are drawn instead.
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.jobs import job_command
from benchmarks.measure import print_results
from benchmarks.published import PUBLISHED
from pipeline.config import EvaluateSection
from pipeline.evaluate.actor import evaluate_items
from pipeline.evaluate.decoders import open_decoder
from pipeline.evaluate.items import held_out_problems
from pipeline.protocols import decoding
from pipeline.report.drawing import GREY
from pipeline.report.figures import accuracy_over_nfe
from pipeline.statistics import compare_paired
from pipeline.tables import text_table
from weft.decode_settings import DecodeSettings
from weft.models import Denoiser
from weft.models.llada import llada_architecture
from weft.models.llada_config import LladaConfig
from weft.sampling import Request, decode
from weft.tasks.grading.limits import Graders

FAST: dict[str, Any] = {"cache": "prefix", "threshold": 0.99, "early_stop": True}
"""The tiny denoiser is surer than it should be: 0.9, which suits LLaDA-8B, costs it accuracy."""
DECODERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "early stop": {"early_stop": True},
    "threshold": {"threshold": 0.99},
    "block cache, prefix": {"cache": "prefix"},
    "block cache, dual": {"cache": "dual"},
    "prefix cache, threshold, early stop": FAST,
    "dual cache, threshold, early stop": FAST | {"cache": "dual"},
}
_STEPS, _THRESHOLDS = (32, 64, 128, 256), (0.5, 0.9, 0.98, 0.995)
CURVES: dict[str, list[dict[str, Any]]] = {
    "plain": [{"steps": steps} for steps in _STEPS],
    "prefix cache": [{"steps": steps, "cache": "prefix"} for steps in _STEPS],
    "dual cache": [{"steps": steps, "cache": "dual"} for steps in _STEPS],
    "threshold": [{"threshold": t} for t in _THRESHOLDS],
    "threshold, prefix cache": [{"threshold": t, "cache": "prefix"} for t in _THRESHOLDS],
    "threshold, dual cache": [{"threshold": t, "cache": "dual"} for t in _THRESHOLDS],
}
"""All without early stop, which would take passes from each and leave the verdicts as they are."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    checkpoint: str = ""
    """A checkpoint of configs/tiny.toml; empty: train one first, in some minutes."""
    items: int = 64
    """Of each of Sudoku and Countdown."""
    gen_length: int = 256
    block_length: int = 32
    batch_size: int = 32
    large_items: int = 2
    """Canvases of the large network, behind prompts as long as d1's."""
    figure: Path | None = None
    """File for the curves (SVG), which are then drawn instead."""


@dataclass(frozen=True)
class Result:
    """One decoder over all items."""

    correct: list[bool]
    nfe: float
    seconds: float
    num_tokens: int

    @property
    def tokens_per_second(self) -> float:
        """Up to the first EOS of each canvas."""
        return self.num_tokens / self.seconds

    @property
    def accuracy(self) -> float:
        """Share of the items that are right."""
        return sum(self.correct) / len(self.correct)


def main(settings: Settings) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = settings.checkpoint or train_tiny(Path(folder))
        if settings.figure is not None:
            draw_curves(checkpoint, settings, settings.figure)
            return
        results = measure_tiny(checkpoint, settings, DECODERS)
    plain, fast = results["plain"], results["prefix cache, threshold, early stop"]
    compared = compare_paired(fast.correct, plain.correct)
    print(format_results(results))
    large = measure_large(settings)
    print_results(
        speedup=fast.tokens_per_second / plain.tokens_per_second,
        accuracy_difference=compared.difference,
        accuracy_interval=f"[{compared.interval.low:.3f},{compared.interval.high:.3f}]",
        speedup_large=large["plain"] / large["block cache, dual"],
    )


def train_tiny(folder: Path) -> str:
    """The checkpoint that ``configs/tiny.toml`` makes, in ``folder``."""
    config, root = Path("configs/tiny.toml"), ("--run.output-dir", str(folder))
    for stage in ("prepare", "reference", "train"):
        subprocess.run(job_command(stage, config, *root), check=True, capture_output=True)
    return str(folder / "checkpoints" / "weft")


def measure_tiny(
    checkpoint: str, settings: Settings, decoders: dict[str, dict[str, Any]]
) -> dict[str, Result]:
    """Each of ``decoders`` over the held-out problems; the first once more before, to warm up."""
    torch.set_num_threads(2)
    problems = {t: held_out_problems(t, settings.items) for t in ("sudoku", "countdown")}
    first = next(iter(decoders.values()))
    run_decoder(checkpoint, settings, first, {t: p[:8] for t, p in problems.items()})
    results = {}
    for name, changes in decoders.items():
        results[name] = run_decoder(checkpoint, settings, changes, problems)
        print(f"{name}: {results[name].seconds:.1f} s", file=sys.stderr, flush=True)
    return results


def run_decoder(
    checkpoint: str,
    settings: Settings,
    changes: dict[str, Any],
    problems: dict[str, list[Any]],
) -> Result:
    """One decoder over ``problems``, which are graded while the clock stands still."""
    section = EvaluateSection(
        gen_lengths=(settings.gen_length,),
        block_length=settings.block_length,
        batch_size=settings.batch_size,
        **{"early_stop": False} | changes,
    )
    decoder = open_decoder(checkpoint, section)
    rows = []
    with Graders() as graders:
        for task, items in problems.items():
            how = decoding(section, task, settings.gen_length)
            found = evaluate_items(decoder, items, how, graders)
            rows += [row for _, row in sorted(found, key=lambda pair: pair[0])]
    return Result(
        correct=[row["correct"] for row in rows],
        nfe=sum(row["nfe"] for row in rows) / len(rows),
        seconds=sum(row["seconds"] for row in rows),
        num_tokens=sum(row["num_tokens"] for row in rows),
    )


def draw_curves(checkpoint: str, settings: Settings, path: Path) -> None:
    """Accuracy over forward passes of each decoder, from fast to slow."""
    curves = {
        name: [
            (result.nfe, result.accuracy)
            for result in measure_tiny(checkpoint, settings, {str(c): c for c in changes}).values()
        ]
        for name, changes in CURVES.items()
    }
    svg = str(accuracy_over_nfe(curves)).replace("currentColor", GREY)
    path.write_text(svg, encoding="utf-8")
    for name, points in curves.items():
        print(name, " ".join(f"{nfe:.1f}:{accuracy:.3f}" for nfe, accuracy in points))


def measure_large(settings: Settings) -> dict[str, float]:
    """Seconds of a random LLaDA of 110 million parameters for the same canvases."""
    denoiser = large_denoiser()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 16_000, (settings.large_items, 192), generator=generator).tolist()
    common = {
        "gen_length": settings.gen_length,
        "block_length": settings.block_length,
        "steps": settings.gen_length // 2,
    }
    decoders: dict[str, dict[str, Any]] = {"plain": {}, "block cache, dual": {"cache": "dual"}}
    seconds = {}
    for name, changes in decoders.items():
        how = DecodeSettings(**common | changes)
        found = list(decode(denoiser, [Request(p) for p in prompts], how, batch_size=len(prompts)))
        seconds[name] = sum(row.seconds for row in found)
    print(f"large: {sum(p.numel() for p in denoiser.parameters()):,} parameters, {seconds}")
    return seconds


def large_denoiser() -> Denoiser:
    """LLaDA's architecture, deeper and wider than the tiny one, with random weights."""
    sizes = {
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "n_kv_heads": 12,
        "mlp_hidden_size": 2048,
        "vocab_size": 16_384,
        "embedding_size": 16_384,
        "max_sequence_length": 1024,
        "mask_token_id": 16_383,
        "eos_token_id": 16_382,
        "pad_token_id": 16_382,
    }
    config = LladaConfig.from_json(PUBLISHED["llada8b"] | sizes, "benchmarks.decode")
    denoiser = llada_architecture(config).build().eval()
    denoiser.initialize(torch.Generator().manual_seed(0))
    return denoiser


def format_results(results: dict[str, Result]) -> str:
    """A table of the decoders, with their tokens per second over those of plain."""
    plain = results["plain"]
    rows = [
        (
            name,
            f"{result.nfe:.1f}",
            f"{result.tokens_per_second:.0f}",
            f"{result.tokens_per_second / plain.tokens_per_second:.2f}",
            f"{100 * result.accuracy:.1f} %",
        )
        for name, result in results.items()
    ]
    return text_table(("decoder", "NFE", "tokens per second", "over plain", "accuracy"), rows)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
