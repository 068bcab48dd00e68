"""Stage reference: predictive entropies of the frozen reference model, on Ray Data actors.

Each prepared shard becomes one entropy shard with the same rows in the same order. The shard is the
unit of resuming: it is written whole under its final name, and a stage that is started again runs
only those that are missing.
"""

import dataclasses
import functools
import logging
import time
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import ReferenceSection, RunConfig, identity
from pipeline.errors import CheckpointError
from pipeline.layout import layout
from pipeline.models import check_context, open_denoiser, weights_fingerprint
from pipeline.prepare import require_prepared
from pipeline.shard_tasks import Workers, run_shards
from pipeline.tokenizers import tokenizer_fingerprints, tokenizer_fingerprints_at

logger = logging.getLogger(__name__)

ENTROPY_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("entropy", pa.list_(pa.float32())),
        ("tail_entropy", pa.list_(pa.float32())),
    ]
)


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write the ``entropies`` artifact, the missing shards of it, or say that it is done."""
    folders = layout(config)
    prepared = require_prepared(config)
    artifacts.verify_files(folders.prepared, prepared)
    _check_model(config)
    wanted = wanted_manifest(config, prepared)
    folder = folders.entropies
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"reference: {folder} is already finished; --overwrite repeats it")
        return
    started = time.monotonic()
    section = config.reference
    with ray_session(
        cpus=section.num_actors * section.num_cpus, gpus=section.num_actors * section.num_gpus
    ):
        missing = _start_or_continue(config, wanted, prepared, overwrite)
        num_tokens = _run_shards(config, missing)
    seconds = time.monotonic() - started
    artifacts.commit(folder, _manifest(folder, wanted, prepared, num_tokens, seconds))
    print(f"reference: {prepared.num_rows} examples in {seconds:.0f} s -> {folder}")


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    from pipeline.train.estimate import count_examples, describe_inference

    _check_model(config)
    section = config.reference
    passes = section.num_levels if section.estimator == "expected" else 1
    num_examples, origin = count_examples(config)
    memory = describe_inference(
        section.checkpoint or config.model.path,
        num_tokens=section.batch_tokens,
        num_rows=section.batch_tokens,
        head_chunk_mib=section.head_chunk_mib,
    )
    return (
        f"reference: {num_examples} examples ({origin}), estimator {section.estimator}, {passes} "
        f"forward passes an example, {section.num_actors} actors, {section.batch_tokens} tokens a "
        f"batch -> {layout(config).entropies}\n{memory}"
    )


def _check_model(config: RunConfig) -> None:
    check_context(
        config.reference.checkpoint or config.model.path,
        config.data.max_length + config.reference.tail,
        "data.max_length and reference.tail",
    )
    check_tokenizer(config)


def wanted_manifest(config: RunConfig, prepared: Manifest) -> Manifest:
    """What the reference artifact of ``config`` over ``prepared`` must say of itself."""
    section = config.reference
    path = section.checkpoint or config.model.path
    settings = {k: v for k, v in identity(section).items() if k != "checkpoint"}
    if section.estimator != "expected":
        settings.pop("num_levels")
    seed = {"run": {"seed": config.run.seed}} if section.estimator == "expected" else {}
    inputs = {"prepared": prepared.content, "weights": weights_fingerprint(path)}
    return Manifest(
        stage="reference",
        config={"reference": settings} | seed,
        inputs=inputs | tokenizer_fingerprints(config.model),
    )


def check_tokenizer(config: RunConfig) -> None:
    """Raise CheckpointError unless the prepared ids mean the same to the reference model.

    Its chat template is not used and may differ.
    """
    other = config.reference.checkpoint
    if not other:
        return
    found = tokenizer_fingerprints_at(other)["tokenizer"]
    wanted = tokenizer_fingerprints(config.model)["tokenizer"]
    if found != wanted:
        raise CheckpointError(
            f"reference.checkpoint {other}: wanted the tokenizer of model.path ({wanted}), got "
            f"another one ({found}); entropies of other tokens say nothing of these"
        )


def _start_or_continue(
    config: RunConfig, wanted: Manifest, prepared: Manifest, overwrite: bool
) -> list[str]:
    """Names of the shards still to be computed; remains of another recipe are removed."""
    names = prepared.shards
    if not artifacts.start_or_continue(
        layout(config).entropies, wanted.recipe, overwrite=overwrite
    ):
        return names
    missing = [name for name in names if not _is_whole(config, name)]
    logger.info("continuing missing=%d of=%d", len(missing), len(names))
    return missing


def _is_whole(config: RunConfig, name: str) -> bool:
    """Whether an interrupted run left shard ``name``, undamaged and of the same examples."""
    folders = layout(config)
    examples = storage.read_table(storage.join(folders.prepared, name))
    found = storage.read_if_whole(storage.join(folders.entropies, name), ENTROPY_SCHEMA)
    return found is not None and bool(found["example_id"].equals(examples["example_id"]))


def _run_shards(config: RunConfig, names: list[str]) -> int:
    """Compute the shards on actors; the number of response tokens measured."""
    section = config.reference
    workers = Workers(section.num_cpus, section.num_gpus, section.num_actors)
    rows = [{"shard": name} for name in names]
    results = run_shards(functools.partial(ReferenceActor, config), rows, workers)
    return sum(int(row["num_tokens"]) for row in results)


class ReferenceActor:
    """Holds one replica of the reference model; called with the name of a shard."""

    def __init__(self, config: RunConfig) -> None:
        """Load the model once, onto the GPU if the actor has one."""
        import torch

        self.config = config
        section = config.reference
        if section.num_gpus == 0:
            torch.set_num_threads(max(1, int(section.num_cpus)))
        device = "cuda" if section.num_gpus > 0 else "cpu"
        self.denoiser = open_denoiser(section.checkpoint or config.model.path, device=device)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute and write one shard."""
        folders, name = layout(self.config), str(row["shard"])
        table = storage.read_table(storage.join(folders.prepared, name))
        entropies = shard_entropies(self.denoiser, table, self.config)
        storage.write_table(storage.join(folders.entropies, name), entropies)
        num_tokens = len(entropies.column("entropy").combine_chunks().flatten())
        return {"shard": name, "num_tokens": num_tokens}


def shard_entropies(denoiser: Any, table: pa.Table, config: RunConfig) -> pa.Table:
    """Entropies (nats, float32) of every response token of ``table``, and of the tail behind it.

    Rows keep their order; the batches in between are formed by length within the token budget,
    which changes speed only. Knows no Ray.
    """
    rows = table.to_pylist()
    results = [(np.empty(0), np.empty(0))] * len(rows)
    for indices in length_batches(rows, config.reference):
        values = _batch_entropies(denoiser, [rows[i] for i in indices], config)
        for index, value in zip(indices, values, strict=True):
            results[index] = value
    _check_finite(results, rows)
    columns = [
        table.column("example_id").combine_chunks(),
        _list_array([body for body, _ in results]),
        _list_array([tail for _, tail in results]),
    ]
    return pa.Table.from_arrays(columns, schema=ENTROPY_SCHEMA)


def _check_finite(results: list[tuple[np.ndarray, np.ndarray]], rows: list[dict[str, Any]]) -> None:
    for values, row in zip(results, rows, strict=True):
        if not all(np.isfinite(part).all() for part in values):
            raise CheckpointError(
                f"example {row['example_id']}: wanted finite entropies, got one that is not; the "
                f"reference model's weights are broken, choose another reference.checkpoint"
            )


def length_batches(rows: list[dict[str, Any]], section: ReferenceSection) -> list[list[int]]:
    """Indices of ``rows`` in batches of similar length, each within ``batch_tokens`` padded."""

    def length(index: int) -> int:
        row = rows[index]
        return len(row["prompt_ids"]) + len(row["response_ids"]) + section.tail

    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: (-length(i), i)):
        if batches and length(batches[-1][0]) * (len(batches[-1]) + 1) <= section.batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
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
        estimator=section.estimator,
        num_levels=section.num_levels,
        generators=[
            example_generator(config.run.seed, 0, example.example_id, "reference")
            for example in examples
        ]
        if section.estimator == "expected"
        else (),
        chunk_size=rows_within(section.head_chunk_mib, denoiser.vocab_size),
    )
    return [(b.cpu().numpy(), t.cpu().numpy()) for b, t in split_entropies(entropy, batch)]


def _list_array(values: list[np.ndarray]) -> pa.Array:
    offsets = np.cumsum([0, *(len(v) for v in values)], dtype=np.int32)
    flat = np.concatenate(values).astype(np.float32) if values else np.empty(0, np.float32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat))


def _manifest(
    folder: str, wanted: Manifest, prepared: Manifest, num_tokens: int, seconds: float
) -> Manifest:
    names = prepared.shards
    files = {
        name: artifacts.file_entry(
            storage.join(folder, name), num_rows=prepared.files[name].num_rows
        )
        for name in names
    }
    facts = {"seconds": round(seconds, 1), "num_tokens_this_run": num_tokens}
    files[artifacts.RECIPE] = artifacts.file_entry(storage.join(folder, artifacts.RECIPE))
    return dataclasses.replace(wanted, files=files, num_rows=prepared.num_rows, facts=facts)
