"""One shard of prepared data: first a draft of all its usable rows, then what the choice leaves.

Both are pure in their arguments, know no Ray, and hold a thousand rows or so at once.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline import artifacts, storage
from pipeline.config import DataSection, RunConfig
from pipeline.layout import shard_name
from pipeline.parquet import row_groups, table_writer
from pipeline.prepare.card import LISTED_OVERLAPS, SourceCard
from pipeline.prepare.filters import OVERLAP, refusal
from pipeline.prepare.near_duplicates import signature_bytes
from pipeline.sources import Part, Row, open_source
from pipeline.tokenization import Encoded, Refused, encode, example_id
from pipeline.tokenizers import open_tokenizer

DRAFTS = "drafts"
"""Folder inside of ``prepared/`` for what is between the two; removed at the end."""

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
        ("file", pa.string()),
        ("position", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("prompt", pa.string()),
        ("response", pa.string()),
        ("line", pa.string()),
    ]
)
DRAFT_SCHEMA = pa.schema(
    [
        *PREPARED_SCHEMA,
        ("file", pa.string()),
        ("position", pa.int64()),
        ("source_number", pa.int32()),
        ("is_truncated", pa.bool_()),
        ("signature", pa.binary()),
    ]
)
DROPPED_SCHEMA = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("detail", pa.string())])
_GROUP_ROWS = 1024
_GROUP_TOKENS = 1 << 20


@dataclass(frozen=True)
class Piece:
    """Rows ``start`` to ``stop`` of a part of source number ``source``."""

    source: int
    part: Part
    start: int
    stop: int


@dataclass(frozen=True)
class Dropped:
    """Why a row of a draft is not in the finished shard."""

    reason: str
    detail: str


class _Groups:
    """Rows collected and written as row groups of bounded size."""

    def __init__(self, write: Callable[[pa.Table], None], schema: pa.Schema) -> None:
        self.write, self.schema = write, schema
        self.rows: list[dict[str, Any]] = []
        self.num_tokens = 0

    def add(self, row: dict[str, Any], num_tokens: int = 0) -> None:
        self.rows.append(row)
        self.num_tokens += num_tokens
        if len(self.rows) >= _GROUP_ROWS or self.num_tokens >= _GROUP_TOKENS:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.write(pa.Table.from_pylist(self.rows, schema=self.schema))
        self.rows, self.num_tokens = [], 0


@contextlib.contextmanager
def _group_writer(path: str, schema: pa.Schema) -> Iterator[_Groups]:
    with table_writer(path, schema) as write:
        groups = _Groups(write, schema)
        yield groups
        groups.flush()


def draft_paths(folder: str, shard: int) -> tuple[str, str, str]:
    """Where a draft lies: its usable rows, its refused ones, and what was counted."""
    drafts, name = storage.join(folder, DRAFTS), shard_name(shard)
    facts = name.removesuffix(".parquet") + ".json"
    return (
        storage.join(drafts, name),
        storage.join(drafts, "rejected", name),
        storage.join(drafts, facts),
    )


def draft_shard(config: RunConfig, folder: str, shard: int, pieces: list[Piece]) -> dict[str, Any]:
    """Write the draft of shard number ``shard``; what was counted, which is written last.

    A draft that is there, whole, is left as it is.
    """
    accepted_path, refused_path, facts_path = draft_paths(folder, shard)
    if _is_whole(accepted_path, refused_path, facts_path):
        return dict(storage.read_json(facts_path))
    rejected: dict[str, Counter[str]] = {}
    overlaps: list[dict[str, Any]] = []
    with (
        _group_writer(accepted_path, DRAFT_SCHEMA) as accepted,
        _group_writer(refused_path, REJECTED_SCHEMA) as refused,
    ):
        for number, row in _rows(config, shard, pieces):
            result = _encode_row(config, row)
            if isinstance(result, Refused):
                refused.add(_refused_row(row, result))
                rejected.setdefault(row.source, Counter())[result.reason] += 1
                if result.reason == OVERLAP and len(overlaps) < LISTED_OVERLAPS:
                    place = {"source": row.source, "file": row.file, "position": row.position}
                    overlaps.append(place | {"detail": result.detail})
            else:
                accepted.add(
                    _draft_row(config.data, number, row, result),
                    len(result.prompt_ids) + len(result.response_ids),
                )
    facts = {
        "shard": shard,
        "rejected": rejected,
        "overlaps": overlaps,
        "num_rows": sum(piece.stop - piece.start for piece in pieces),
        "sha256": [storage.sha256(accepted_path), storage.sha256(refused_path)],
    }
    storage.write_json(facts_path, facts)
    return facts


def _is_whole(accepted: str, refused: str, facts: str) -> bool:
    if not storage.exists(facts):
        return False
    files = [accepted, refused]
    return all(storage.exists(file) for file in files) and storage.read_json(facts)["sha256"] == [
        storage.sha256(file) for file in files
    ]


def _rows(config: RunConfig, shard: int, pieces: list[Piece]) -> Iterator[tuple[int, Row]]:
    for piece in pieces:
        source = open_source(config.data, config.data.sources[piece.source])
        for row in source.rows(piece.part, shard, piece.start, piece.stop):
            yield piece.source, row


def _encode_row(config: RunConfig, row: Row) -> Encoded | Refused:
    data = config.data
    refused = refusal(row, data)
    if refused is not None:
        return refused
    result = encode(
        open_tokenizer(config.model),
        row.prompt,
        row.response,
        max_length=data.max_length,
        too_long=data.too_long,
        is_chat=row.is_chat,
    )
    if isinstance(result, Encoded) and len(result.response_ids) < data.min_response_tokens:
        got = f"{len(result.response_ids)} tokens, data.min_response_tokens is"
        return Refused("too_short", f"{got} {data.min_response_tokens}")
    return result


def _draft_row(data: DataSection, number: int, row: Row, encoded: Encoded) -> dict[str, Any]:
    place = row.position if row.may_repeat else None
    return {
        "example_id": example_id(row.prompt, row.response, place),
        "prompt_ids": encoded.prompt_ids,
        "response_ids": encoded.response_ids,
        "source": row.source,
        "file": row.file,
        "position": row.position,
        "source_number": number,
        "is_truncated": encoded.is_truncated,
        "signature": signature_bytes(row, data),
    }


def _refused_row(row: Row, refused: Refused) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in REJECTED_SCHEMA.names if hasattr(row, name)}
    return values | {"reason": refused.reason, "detail": refused.detail}


def write_dropped(folder: str, shard: int, dropped: dict[int, Dropped]) -> None:
    """Note which rows of the draft of ``shard`` ``finish_shard`` is to leave out, and why."""
    rows = [{"row": n, "reason": d.reason, "detail": d.detail} for n, d in sorted(dropped.items())]
    table = pa.Table.from_pylist(rows, schema=DROPPED_SCHEMA)
    storage.write_table(_dropped_path(folder, shard), table)


def _dropped_path(folder: str, shard: int) -> str:
    return storage.join(folder, DRAFTS, "dropped", shard_name(shard))


def _read_dropped(folder: str, shard: int) -> dict[int, Dropped]:
    rows = storage.read_table(_dropped_path(folder, shard)).to_pylist()
    return {row["row"]: Dropped(row["reason"], row["detail"]) for row in rows}


def finish_shard(folder: str, shard: int) -> dict[str, Any]:
    """Write the shard without the rows of its draft that are dropped; entries and cards of it.

    JSON values: ``files`` by name as in the manifest; ``cards`` and ``rejected`` by source.
    """
    draft, draft_refused, _ = draft_paths(folder, shard)
    name = shard_name(shard)
    rejected = f"rejected/{name}"
    cards: dict[str, SourceCard] = {}
    reasons: dict[str, Counter[str]] = {}
    dropped = _read_dropped(folder, shard)
    position = num_truncated = 0
    with (
        table_writer(storage.join(folder, name), PREPARED_SCHEMA) as keep,
        _group_writer(storage.join(folder, rejected), REJECTED_SCHEMA) as refuse,
    ):
        for table in row_groups(draft_refused):
            refuse.write(table)
        for table in row_groups(draft):
            here = {n - position: d for n, d in dropped.items() if 0 <= n - position < len(table)}
            for row in _dropped_rows(table, here):
                refuse.add(row)
                reasons.setdefault(row["source"], Counter())[row["reason"]] += 1
            kept = table.take(pa.array([n for n in range(len(table)) if n not in here], pa.int64()))
            num_truncated += kept.column("is_truncated").to_pylist().count(True)
            if len(kept):
                keep(kept.select(PREPARED_SCHEMA.names))
            for source, card in SourceCard.of_table(kept).items():
                cards[source] = cards.get(source, SourceCard()) + card
            position += len(table)
    entries = {
        file: artifacts.file_entry(storage.join(folder, file), num_rows=num_rows)
        for file, num_rows in ((name, position - len(dropped)), (rejected, 0))
    }
    return {
        "shard": shard,
        "num_rows": position,
        "files": {file: dataclasses.asdict(entry) for file, entry in entries.items()},
        "rejected": reasons,
        "num_truncated": num_truncated,
        "cards": {source: dataclasses.asdict(card) for source, card in cards.items()},
    }


def _dropped_rows(table: pa.Table, dropped: dict[int, Dropped]) -> Iterator[dict[str, Any]]:
    """The rows as they stand under ``rejected/``: without their text, which their source has."""
    places = table.select(["source", "file", "position"])
    for number, why in sorted(dropped.items()):
        (place,) = places.slice(number, 1).to_pylist()
        empty = dict.fromkeys(("prompt", "response", "line"), "")
        yield place | empty | {"reason": why.reason, "detail": why.detail}
