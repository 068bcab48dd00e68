"""Decoding and grading one shard of items; what an evaluation actor does."""

import hashlib
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.items import load_items
from pipeline.models import open_denoiser
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import open_tokenizer_at

ROW_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item_id", pa.string()),
        ("prompt", pa.string()),
        ("generation", pa.string()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
        ("d1_correct", pa.bool_()),
        ("tokens", pa.list_(pa.int32())),
        ("unmask_step", pa.list_(pa.int32())),
        ("nfe", pa.int32()),
        ("seconds", pa.float64()),
        ("gen_length", pa.int32()),
        ("seed", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Shard:
    """Items ``start`` to ``stop`` of one task, written to the file ``name``."""

    name: str
    task: str
    start: int
    stop: int


class EvaluateActor:
    """Holds one replica of the model; called with a row that describes a shard."""

    def __init__(self, config: RunConfig, checkpoint: str, folder: str) -> None:
        """Load model and tokenizer once, onto the GPU if the actor has one."""
        import torch

        section = config.evaluate
        if section.num_gpus == 0:
            torch.set_num_threads(max(1, int(section.num_cpus)))
        self.config, self.folder = config, folder
        self.denoiser = open_denoiser(checkpoint, device="cuda" if section.num_gpus > 0 else "cpu")
        self.tokenizer = open_tokenizer_at(checkpoint)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Decode, grade and write one shard."""
        shard = Shard(row["name"], row["task"], int(row["start"]), int(row["stop"]))
        items = load_items(self.config.evaluate, shard.task)[shard.start : shard.stop]
        rows = evaluate_items(self.denoiser, self.tokenizer, shard.task, items, self.config)
        table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
        storage.write_table(storage.join(self.folder, shard.name), table)
        num_correct = sum(bool(r["correct"]) for r in rows)
        return {"shard": shard.name, "num_items": len(rows), "num_correct": num_correct}


def evaluate_items(
    denoiser: Any, tokenizer: Any, task: str, items: list[Any], config: RunConfig
) -> list[dict[str, Any]]:
    """One row an item, in order: prompt, generation, verdicts, NFE, seconds. Knows no Ray."""
    size = config.evaluate.batch_size
    rows: list[dict[str, Any]] = []
    for start in range(0, len(items), size):
        rows += _decode_batch(denoiser, tokenizer, task, items[start : start + size], config)
    return rows


def _decode_batch(
    denoiser: Any, tokenizer: Any, task: str, items: list[Any], config: RunConfig
) -> list[dict[str, Any]]:
    from weft.sampling import generate
    from weft.tasks import get_task

    section = config.evaluate
    prompts = [get_task(task).prompt(item, section.prompt_style) for item in items]
    started = time.monotonic()
    generation = generate(
        denoiser,
        [prompt_ids(tokenizer, p.text, p.prefill) for p in prompts],
        gen_length=section.gen_length,
        block_length=section.block_length,
        steps=section.steps,
        temperature=section.temperature,
        remasking=section.remasking,
        cfg_scale=section.cfg_scale,
        generators=[item_generator(section.seed, item.item_id) for item in items],
    )
    seconds = (time.monotonic() - started) / len(items)
    return [
        _row(task, item, prompt.text, tokens, steps, tokenizer)
        | {
            "nfe": generation.nfe,
            "seconds": seconds,
            "gen_length": section.gen_length,
            "seed": section.seed,
        }
        for item, prompt, tokens, steps in zip(
            items,
            prompts,
            generation.tokens.tolist(),
            generation.unmask_step.tolist(),
            strict=True,
        )
    ]


def item_generator(seed: int, item_id: str) -> Any:
    """The item's own source of randomness, the same in any batch and on any worker."""
    import torch

    digest = hashlib.blake2b(f"{seed}:{item_id}".encode(), digest_size=8).digest()
    generator = torch.Generator()
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)
    return generator


def _row(
    task: str, item: Any, prompt: str, tokens: list[int], steps: list[int], tokenizer: Any
) -> dict[str, Any]:
    from weft.tasks import get_task

    text = tokenizer.decode(tokens, skip_special_tokens=False)
    verdict = get_task(task).grade(item, text)
    return {
        "task": task,
        "item_id": item.item_id,
        "prompt": prompt,
        "generation": text,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "d1_correct": verdict.d1_correct,
        "tokens": tokens,
        "unmask_step": steps,
    }
