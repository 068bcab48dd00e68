"""What repeating the paper's table takes, from measured speed and counted operations:
``python -m scripts.gpu_plan``.

LLaDA-8B-Instruct with adapters; SFT and WeFT on three data sets with three seeds; each checkpoint
evaluated on four tasks at three lengths. See docs/reproduce.md.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.published import PUBLISHED
from pipeline.tables import text_table
from pipeline.train.estimate import ModelSize, forward_flops, model_size


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is assumed; every figure can be another."""

    tokens_per_second: float = 8000.0
    """Of training one LLaDA-8B adapter on one H100, packed (docs/benchmarks.md)."""
    peak_tflops: float = 989.0
    """Of one H100 or H200 in bfloat16, without sparsity."""
    decode_utilization: float = 0.50
    """Share of the peak that the published decoder reaches, 32 canvases at a time (there)."""
    reference_utilization: float = 0.48
    """That of reference entropies, packed (there)."""
    dollars_per_hour: float = 3.0
    """For one GPU."""
    gpus: int = 8
    """GPUs at a time."""
    seeds: int = 3
    epochs: int = 20
    online_over_sft: float = 1.39
    """Time of a step with online entropies (docs/benchmarks.md)."""


TRAINED = {"s1K": (1000, 3300), "s1K-1.1": (1000, 3700), "3k of open-r1": (3000, 3400)}
"""Examples, and tokens of one in the mean once it is cut at 4,096: estimates, not counts."""
ITEMS = {"gsm8k": (1319, 190), "math500": (500, 210), "countdown": (256, 190), "sudoku": (256, 330)}
"""Items, and tokens of a prompt of d1 in the mean: estimates."""
LENGTHS = (128, 256, 512)


def main(settings: Settings) -> None:
    """Print the plan."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(PUBLISHED["llada8b"]))
        size = model_size(folder)
    peak = settings.peak_tflops * 1e12 * 3600  # operations an hour
    reference, decode = peak * settings.reference_utilization, peak * settings.decode_utilization
    plan: list[tuple[str, int, float]] = []
    for name, (examples, length) in TRAINED.items():
        tokens = examples * length
        flops = forward_flops(size, num_tokens=tokens, length=length)
        plan.append((f"reference, {name}", 1, flops / reference))
        hours = settings.epochs * tokens / settings.tokens_per_second / 3600
        plan.append((f"train, {name}: SFT and WeFT", 2 * settings.seeds, hours))
        if name == "s1K":
            plan.append(
                (f"train, {name}: online", settings.seeds, settings.online_over_sft * hours)
            )
    checkpoints = 1 + settings.seeds * (2 * len(TRAINED) + 1)
    plan += [
        (f"evaluate, length {n}", checkpoints, evaluation_flops(size, n) / decode) for n in LENGTHS
    ]
    rows = [(what, str(runs), f"{hours:.2f}", f"{runs * hours:.1f}") for what, runs, hours in plan]
    print(text_table(("stage", "runs", "GPU hours each", "GPU hours"), rows))
    total = sum(runs * hours for _, runs, hours in plan)
    print(
        f"total_gpu_hours={total:.0f} hours_on_{settings.gpus}_gpus={total / settings.gpus:.0f} "
        f"dollars={total * settings.dollars_per_hour:.0f}"
    )


def evaluation_flops(size: ModelSize, gen_length: int) -> float:
    """Operations of one checkpoint on all items: each of length / 2 steps sees the whole canvas."""
    return sum(
        count
        * (gen_length / 2)
        * forward_flops(size, num_tokens=prompt + gen_length, length=prompt + gen_length)
        for count, prompt in ITEMS.values()
    )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
