"""Stage prepare: sources -> chat template -> token ids -> Parquet shards, on Ray Data.

Nothing is dropped silently: every refused row is kept under ``rejected/`` with its source, its
position and the reason, and the manifest counts the reasons.
"""

import dataclasses
import itertools
import logging
import time
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import DataSection, RunConfig, identity
from pipeline.errors import ArtifactError, DataError
from pipeline.layout import layout, shard_name
from pipeline.models import check_context
from pipeline.shard_tasks import Workers, run_shards
from pipeline.sizes import size_text
from pipeline.sources import Row, count_rows, read_rows, source_fingerprint, source_name
from pipeline.tokenization import Encoded, Refused, encode, example_id
from pipeline.tokenizers import check_tokenizer, open_tokenizer, tokenizer_fingerprints

logger = logging.getLogger(__name__)

_BYTES_OF_A_TOKEN = 40
"""Of a token in a Python list, its share of the text and of the Parquet table beside it."""

PREPARED_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt_ids", pa.list_(pa.int32())),
        ("response_ids", pa.list_(pa.int32())),
        ("source", pa.string()),
    ]
)
REJECTED_SCHEMA = pa.schema(
    [
        ("source", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("line", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of source number ``source``."""

    source: int
    start: int
    stop: int


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write the ``prepared`` artifact of ``config``, or say that it is there already."""
    folder = layout(config).prepared
    check_context(config.model.path, config.data.max_length, "data.max_length")
    counts = [count_rows(source) for source in config.data.sources]
    wanted = _wanted(config)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"prepare: {folder} is already finished; --overwrite repeats it")
        return
    if not overwrite:
        artifacts.require_replaceable(folder)
    started = time.monotonic()
    with ray_session(cpus=config.data.num_cpus):
        artifacts.clear(folder)  # what --overwrite replaces, or remains of an interrupted run
        storage.write_json(storage.join(folder, artifacts.RECIPE), wanted.recipe)
        shards = _run_shards(config, folder, plan_shards(counts, config.data.num_shards))
        duplicates = _drop_duplicates(folder, shards)
    manifest = _manifest(folder, wanted, shards, duplicates, time.monotonic() - started)
    artifacts.commit(folder, manifest)
    counts_of_rows = f"rejected {manifest.rejected}, truncated {manifest.facts['num_truncated']}"
    print(f"prepare: {manifest.num_rows} examples, {counts_of_rows} -> {folder}")


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    check_context(config.model.path, config.data.max_length, "data.max_length")
    counts = [count_rows(source) for source in config.data.sources]
    shards = plan_shards(counts, config.data.num_shards)
    rows = max(sum(piece.stop - piece.start for piece in shard) for shard in shards)
    memory = rows * config.data.max_length * _BYTES_OF_A_TOKEN
    return (
        f"prepare: {sum(counts)} rows of {len(counts)} sources in {len(shards)} shards "
        f"-> {layout(config).prepared}\n"
        f"memory of one task: at most {size_text(memory)} for the {rows} rows of a shard, estimated"
    )


def require_prepared(config: RunConfig) -> Manifest:
    """The manifest of the run's prepared data, as the input of a later stage.

    Raises ArtifactError when it is missing, or was prepared with other ``[data]`` settings or with
    another tokenizer. Source files are not looked at: they need not be where training runs.
    """
    folder = layout(config).prepared
    found = artifacts.require(folder, "prepare", hint="run jobs/prepare.py")
    wanted, got = _data_settings(config), found.config.get("data", {})
    for name in sorted({*wanted, *got}):
        if artifacts.fingerprint(wanted.get(name)) != artifacts.fingerprint(got.get(name)):
            raise ArtifactError(
                f"{folder}: was prepared with data.{name} = {got.get(name)!r}, the configuration "
                f"says {wanted.get(name)!r}; run jobs/prepare.py --overwrite, or choose another "
                f"run.output_dir"
            )
    check_tokenizer(folder, found, tokenizer_fingerprints(config.model))
    return found


def plan_shards(counts: list[int], num_shards: int) -> list[list[Piece]]:
    """Cut the rows of all sources, laid end to end, into at most ``num_shards`` even shards."""
    total = sum(counts)
    num_shards = max(1, min(num_shards, total))
    bounds = [total * k // num_shards for k in range(num_shards + 1)]
    shards: list[list[Piece]] = []
    for low, high in itertools.pairwise(bounds):
        pieces, offset = [], 0
        for source, count in enumerate(counts):
            start, stop = max(low - offset, 0), min(high - offset, count)
            if start < stop:
                pieces.append(Piece(source, start, stop))
            offset += count
        shards.append(pieces)
    return shards


def _wanted(config: RunConfig) -> Manifest:
    inputs = {
        f"source_{number}": source_fingerprint(config.data, source)
        for number, source in enumerate(config.data.sources)
    }
    return Manifest(
        stage="prepare",
        config={"data": _data_settings(config)},
        inputs=inputs | tokenizer_fingerprints(config.model),
    )


def _data_settings(config: RunConfig) -> dict[str, Any]:
    # How training pads is no part of what is prepared.
    data = {k: v for k, v in identity(config.data).items() if k not in ("eos_policy", "tail_max")}
    # A file is known by its content; where it lies may change.
    sources = [
        dataclasses.asdict(source) | {"path": source_name(source) if source.path else ""}
        for source in config.data.sources
    ]
    return data | {"sources": sources}


def _run_shards(config: RunConfig, folder: str, plan: list[list[Piece]]) -> list[dict[str, Any]]:
    def run_one(row: dict[str, Any]) -> dict[str, Any]:
        shard = int(row["shard"])
        return prepare_shard(config, folder, shard, plan[shard])

    rows = [{"shard": number} for number in range(len(plan))]
    results = run_shards(lambda: run_one, rows, Workers(config.data.num_cpus))
    return sorted(results, key=lambda shard: int(shard["shard"]))


def prepare_shard(
    config: RunConfig, folder: str, shard: int, pieces: list[Piece]
) -> dict[str, Any]:
    """Write shard number ``shard``; its example ids and positions, rejected and truncated counts.

    Pure in its arguments: the same shard always has the same bytes. Knows no Ray.
    """
    tokenizer = open_tokenizer(config.model)
    accepted: list[dict[str, Any]] = []
    positions: list[int] = []
    refused: list[dict[str, Any]] = []
    num_truncated = 0
    for piece in pieces:
        source = config.data.sources[piece.source]
        for row in read_rows(config.data, source, shard, piece.start, piece.stop):
            result = _encode_row(tokenizer, row, config.data)
            if isinstance(result, Refused):
                refused.append(_refused_row(row, result))
            else:
                num_truncated += result.is_truncated
                accepted.append(_accepted_row(row, result))
                positions.append(row.position)
    _write(folder, shard, accepted, refused)
    return {
        "shard": shard,
        "example_ids": [row["example_id"] for row in accepted],
        "positions": positions,
        "rejected": [row["reason"] for row in refused],
        "num_truncated": num_truncated,
    }


def _encode_row(tokenizer: Any, row: Row, data: DataSection) -> Encoded | Refused:
    if row.reason:
        return Refused(row.reason, row.detail)
    return encode(
        tokenizer,
        row.prompt,
        row.response,
        max_length=data.max_length,
        too_long=data.too_long,
        is_chat=row.is_chat,
    )


def _accepted_row(row: Row, encoded: Encoded) -> dict[str, Any]:
    return {
        "example_id": example_id(
            row.prompt, row.response, row.position if row.may_repeat else None
        ),
        "prompt_ids": encoded.prompt_ids,
        "response_ids": encoded.response_ids,
        "source": row.source,
    }


def _refused_row(row: Row, refused: Refused) -> dict[str, Any]:
    return {
        "source": row.source,
        "position": row.position,
        "reason": refused.reason,
        "detail": refused.detail,
        "prompt": row.prompt,
        "response": row.response,
        "line": row.line,
    }


def _write(
    folder: str, shard: int, accepted: list[dict[str, Any]], refused: list[dict[str, Any]]
) -> None:
    name = shard_name(shard)
    rejected = pa.Table.from_pylist(refused, schema=REJECTED_SCHEMA)
    storage.write_table(storage.join(folder, "rejected", name), rejected)
    prepared = pa.Table.from_pylist(accepted, schema=PREPARED_SCHEMA)
    storage.write_table(storage.join(folder, name), prepared)


def _drop_duplicates(folder: str, shards: list[dict[str, Any]]) -> int:
    """Keep the first example of each id over all shards; the number of rows dropped."""
    seen: set[str] = set()
    dropped = 0
    for shard in shards:
        extra = []
        for number, example in enumerate(shard["example_ids"]):
            if example in seen:
                extra.append(number)
            seen.add(example)
        if extra:
            positions = [int(shard["positions"][number]) for number in extra]
            _move_to_rejected(folder, int(shard["shard"]), extra, positions)
            dropped += len(extra)
    return dropped


def _move_to_rejected(folder: str, shard: int, extra: list[int], positions: list[int]) -> None:
    """Move the rows ``extra`` of a shard; ``positions`` are theirs in their source."""
    path = storage.join(folder, shard_name(shard))
    table = storage.read_table(path)
    refused = [
        {
            "source": row["source"],
            "position": position,
            "reason": "duplicate",
            "detail": f"its text is that of example {row['example_id']} before it",
            "prompt": "",
            "response": "",
            "line": "",
        }
        for row, position in zip(table.take(extra).to_pylist(), positions, strict=True)
    ]
    keep = sorted({*range(table.num_rows)} - {*extra})
    rejected_path = storage.join(folder, "rejected", shard_name(shard))
    rejected = pa.concat_tables(
        [storage.read_table(rejected_path), pa.Table.from_pylist(refused, schema=REJECTED_SCHEMA)]
    )
    storage.write_table(rejected_path, rejected)
    # Typed, since a shard of duplicates alone keeps nothing.
    storage.write_table(path, table.take(pa.array(keep, pa.int64())))


def _manifest(
    folder: str, wanted: Manifest, shards: list[dict[str, Any]], duplicates: int, seconds: float
) -> Manifest:
    files = {}
    longest = 0
    for shard in shards:
        name = shard_name(int(shard["shard"]))
        table = storage.read_table(storage.join(folder, name))
        longest = max(longest, _longest(table))
        files[name] = artifacts.file_entry(storage.join(folder, name), num_rows=table.num_rows)
        rejected = f"rejected/{name}"
        files[rejected] = artifacts.file_entry(storage.join(folder, rejected))
    num_rows = sum(entry.num_rows for entry in files.values())
    reasons = Counter(reason for shard in shards for reason in shard["rejected"])
    if duplicates:
        reasons["duplicate"] = duplicates
    if num_rows == 0:
        raise DataError(
            f"{folder}: not one example could be used, rejected {dict(reasons)}; "
            f"see the reasons in {folder}/rejected"
        )
    facts = {
        "num_truncated": int(sum(shard["num_truncated"] for shard in shards)),
        "longest": longest,
        "seconds": round(seconds, 1),
    }
    return dataclasses.replace(
        wanted, files=files, num_rows=num_rows, rejected=dict(sorted(reasons.items())), facts=facts
    )


def _longest(table: Any) -> int:
    """Tokens of the longest prompt and response in ``table``."""
    lengths = pc.add(*(pc.list_value_length(table[c]) for c in ("prompt_ids", "response_ids")))
    return int(pc.max(lengths).as_py() or 0)
