"""Entropies of the examples of one shard, in batches of similar length. Knows no Ray."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.config import ReferenceSection, RunConfig

ENTROPY_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("entropy", pa.list_(pa.float32())),
        ("tail_entropy", pa.list_(pa.float32())),
    ]
)


def open_reference(section: ReferenceSection, path: str) -> Any:
    """The denoiser at ``path`` on the device, with the threads and the precision of ``section``."""
    import torch

    from pipeline.models import open_denoiser

    device = "cuda" if section.num_gpus > 0 else "cpu"
    if device == "cpu":
        torch.set_num_threads(max(1, int(section.num_cpus)))
    return open_denoiser(path, device=device, dtype=getattr(torch, section.precision))


def shard_entropies(denoiser: Any, table: pa.Table, config: RunConfig) -> pa.Table:
    """Entropies (nats, float32) of every response token of ``table``, and of the tail behind it.

    Rows keep their order; the batches in between are formed by length within the token budget,
    which changes speed only. A row for which the model gives a value that is not finite has null
    instead of its entropies.
    """
    rows = _rows(table)
    results: list[tuple[np.ndarray, np.ndarray] | None] = [None] * len(rows)
    for indices in length_batches([_length(row, config.reference) for row in rows], config):
        values = _batch_entropies(denoiser, [rows[i] for i in indices], config)
        for index, parts in zip(indices, values, strict=True):
            results[index] = parts if all(np.isfinite(part).all() for part in parts) else None
    columns = [
        table.column("example_id").combine_chunks(),
        *(list_array([r and r[part] for r in results]) for part in (0, 1)),
    ]
    return pa.Table.from_arrays(columns, schema=ENTROPY_SCHEMA)


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Ids as arrays over the table's own memory: a list of Python integers takes nine times it."""
    ids = {name: _views(table.column(name)) for name in ("prompt_ids", "response_ids")}
    names = table.column("example_id").to_pylist()
    parts = zip(names, ids["prompt_ids"], ids["response_ids"], strict=True)
    keys = ("example_id", "prompt_ids", "response_ids")
    return [dict(zip(keys, values, strict=True)) for values in parts]


def _views(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    for chunk in column.chunks:
        values, offsets = chunk.values.to_numpy(), chunk.offsets.to_numpy()
        yield from (values[a:b] for a, b in itertools.pairwise(offsets))


def _length(row: dict[str, Any], section: ReferenceSection) -> int:
    return len(row["prompt_ids"]) + len(row["response_ids"]) + section.tail


def length_batches(lengths: list[int], config: RunConfig) -> list[list[int]]:
    """Indices in batches of similar length, longest first, each within ``batch_tokens``.

    Padding counts, unless it is taken out (``reference.packing``).
    """
    section = config.reference
    batches: list[list[int]] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        # The first of a batch is its longest: what the others are padded to.
        added = lengths[index] if section.packing or not batches else lengths[batches[-1][0]]
        if batches and used + added <= section.batch_tokens:
            batches[-1].append(index)
            used += added
        else:
            batches.append([index])
            used = lengths[index]
    return batches


def _batch_entropies(
    denoiser: Any, rows: list[dict[str, Any]], config: RunConfig
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Entropies of each row's response and of its tail."""
    from weft.batch import Example, reference_batch, split_entropies
    from weft.entropy import reference_entropies
    from weft.head import rows_within
    from weft.noise import example_generator

    section = config.reference
    estimator = section.estimator
    if estimator == "autoregressive":
        raise ValueError("a denoiser has no autoregressive entropies")
    examples = [Example(r["example_id"], r["prompt_ids"], r["response_ids"]) for r in rows]
    batch = reference_batch(
        examples,
        tail=section.tail,
        max_length=config.data.max_length + section.tail,
        eos_token_id=denoiser.eos_token_id,
    ).to(next(denoiser.parameters()).device)
    entropy = reference_entropies(
        denoiser,
        batch.input_ids,
        batch.attention_mask if batch.is_padded else None,
        batch.is_maskable,
        estimator=estimator,
        num_levels=section.num_levels,
        generators=[
            example_generator(config.run.seed, 0, example.example_id, "reference")
            for example in examples
        ]
        if estimator == "expected"
        else (),
        chunk_size=rows_within(section.head_chunk_mib, denoiser.vocab_size),
        packed=section.packing,
    )
    return [(b.cpu().numpy(), t.cpu().numpy()) for b, t in split_entropies(entropy, batch)]


def list_array(values: list[np.ndarray | None]) -> pa.Array:
    """Lists of float32; null for None."""
    lengths = [0 if v is None else len(v) for v in values]
    offsets = np.cumsum([0, *lengths], dtype=np.int32)
    present = [v for v in values if v is not None]
    flat = np.concatenate(present).astype(np.float32) if present else np.empty(0, np.float32)
    is_null = pa.array([v is None for v in values], pa.bool_())
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=is_null)
