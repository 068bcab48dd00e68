"""What trainings take on GPUs of 80 GB, by our own estimates: ``python -m scripts.sizing``.

20 epochs of s1K. Memory is what ``jobs/train.py --dry-run`` says. Hours are counted operations over
those that one H100 was measured to do while it trained LLaDA-8B with an adapter
(docs/benchmarks.md); a small model reaches less, and what workers exchange is not in them.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.published import PublishedName, write_published
from pipeline.cli import parse_arguments
from pipeline.tables import text_table
from pipeline.train.capacity import largest_shape
from pipeline.train.estimate import forward_flops, model_size
from pipeline.train.memory import step_memory

EPOCHS, NUM_EXAMPLES, LENGTH = 20, 1000, 3300
"""s1K, and tokens of a trace in the mean once it is cut at 4,096: an estimate."""


@dataclass(frozen=True)
class Case:
    """One way of training."""

    what: str
    size: PublishedName
    config: str
    num_gpus: int


CASES = (
    Case("LLaDA-8B, LoRA", "llada8b", "llada8b_s1k_lora", 1),
    Case("LLaDA-8B, all weights", "llada8b", "llada8b_s1k_full", 8),
    Case("Dream-7B, LoRA", "dream7b", "dream7b_s1k_lora", 1),
    Case("Qwen3-0.6B (A2D), all weights", "qwen3_06b", "a2d_qwen3_06b", 1),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is assumed."""

    peak_tflops: float = 989.0
    """Of one H100 in bfloat16, without sparsity."""
    utilization: float = 0.40
    """8,000 tokens a second of LLaDA-8B with an adapter, packed, gradients checkpointed."""
    online_over_sft: float = 1.39
    """Time of a step with online entropies (docs/benchmarks.md)."""
    dollars_per_hour: float = 3.0
    """For one GPU."""


def main(settings: Settings) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for case in CASES for row in _rows(case, Path(folder), settings)]
    columns = ("model", "method", "GPUs", "GiB a GPU", "hours", "dollars", "file")
    print(text_table(columns, rows))


def _rows(case: Case, folder: Path, settings: Settings) -> list[tuple[str, ...]]:
    path = write_published(folder / case.size, case.size)
    file = f"configs/{case.config}.toml"
    given = ["--model.path", path, "--train.num-workers", str(case.num_gpus)]
    config = parse_arguments("train", ["--config", file, *given]).run_config
    shape = largest_shape(config, config.train.batch_size, config.data.max_length)
    memory = step_memory(config, shape).peak / 2**30
    # Backwards twice a forward pass, half of it where the weights are frozen, and blocks once more.
    passes = (2 if config.lora.enabled else 3) + config.train.gradient_checkpointing
    tokens = EPOCHS * NUM_EXAMPLES * LENGTH
    work = passes * forward_flops(model_size(path), num_tokens=tokens, length=LENGTH)
    speed = case.num_gpus * settings.peak_tflops * 1e12 * settings.utilization
    found = []
    for method, factor in (("SFT, WeFT", 1.0), ("online", settings.online_over_sft)):
        hours = factor * work / speed / 3600
        dollars = hours * case.num_gpus * settings.dollars_per_hour
        numbers = (f"{memory:.1f}", f"{hours:.1f}", f"{dollars:.0f}")
        found.append((case.what, method, str(case.num_gpus), *numbers, file))
    return found


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
