"""Result rows: their columns, and the small files that they are kept in until all are there."""

import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline import storage

ROW_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item_id", pa.string()),
        ("position", pa.int32()),
        ("prompt", pa.string()),
        ("generation", pa.string()),
        ("extracted", pa.string()),
        ("correct", pa.bool_()),
        ("d1_correct", pa.bool_()),
        ("timed_out", pa.bool_()),
        ("details", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("unmask_step", pa.list_(pa.int32())),
        ("num_tokens", pa.int32()),
        ("nfe", pa.int32()),
        ("whole_passes", pa.int32()),
        ("seconds", pa.float64()),
        ("latency", pa.float64()),
        ("checkpoint", pa.string()),
        ("engine", pa.string()),
        ("precision", pa.string()),
        ("seed", pa.int64()),
        ("protocol", pa.string()),
        ("prompt_style", pa.string()),
        ("gen_length", pa.int32()),
        ("block_length", pa.int32()),
        ("steps", pa.int32()),
        ("temperature", pa.float64()),
        ("remasking", pa.string()),
        ("cfg_scale", pa.float64()),
        ("threshold", pa.float64()),
        ("cache", pa.string()),
        ("early_stop", pa.bool_()),
        ("logits_eos_inf", pa.bool_()),
        ("confidence_eos_eot_inf", pa.bool_()),
    ]
)
PARTS = "parts"
"""Folder of the rows of an evaluation that is not finished."""
_FLUSH_S = 1.0
_READERS = 16


class PartWriter:
    """Writes rows within a second, in small files; what comes within that second goes into one."""

    def __init__(self, folder: str) -> None:
        """``folder``: that of the evaluation."""
        self._folder = storage.join(folder, PARTS)
        self._rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._problem: BaseException | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Take ``row``, which is written in a second; raises what kept earlier ones from that."""
        with self._lock:
            self._rows.append(row)
            if self._timer is None:
                self._timer = threading.Timer(_FLUSH_S, self._write_later)
                self._timer.daemon = True
                self._timer.start()
        if self._problem is not None:
            raise self._problem

    def _write_later(self) -> None:
        try:
            self._write()
        except Exception as error:
            self._problem = error

    def flush(self) -> None:
        """Write what there is, now."""
        self._write()
        if self._problem is not None:
            raise self._problem

    def _write(self) -> None:
        with self._lock:
            rows, self._rows = self._rows, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if not rows:
                return
            # A name of its own: a shard that is decoded again must not replace what is there.
            first, own = rows[0], uuid.uuid4().hex[:8]
            name = f"{first['task']}-{first['position']:06d}-{own}.parquet"
            table = pa.Table.from_pylist(rows, schema=ROW_SCHEMA)
            storage.write_table(storage.join(self._folder, name), table)


class PartReader:
    """The rows that are there, each file read once; a damaged one is removed."""

    def __init__(self, folder: str) -> None:
        """``folder``: that of the evaluation."""
        self._folder = storage.join(folder, PARTS)
        self._seen: set[str] = set()

    def poll(self) -> list[dict[str, Any]]:
        """The rows of files that were not there at the last call."""
        names = [name for name in storage.list_files(self._folder) if name not in self._seen]
        with ThreadPoolExecutor(_READERS) as readers:
            tables = dict(zip(names, readers.map(self._read, names), strict=True))
        for name in names:
            if tables[name] is None:
                # Its items are decoded again, into a file that may have the same name.
                storage.remove(storage.join(self._folder, name))
            else:
                self._seen.add(name)
        return [row for table in tables.values() if table is not None for row in table.to_pylist()]

    def _read(self, name: str) -> pa.Table | None:
        return storage.read_if_whole(storage.join(self._folder, name), ROW_SCHEMA)


def write_rows(folder: str, task: str, rows: Iterable[dict[str, Any]]) -> str:
    """Write the finished rows of ``task`` in their order; the name of the file."""
    name = f"{task}.parquet"
    ordered = sorted(rows, key=lambda row: row["position"])
    table = pa.Table.from_pylist(ordered, schema=ROW_SCHEMA)
    storage.write_table(storage.join(folder, name), table)
    return name


def read_rows(folder: str) -> list[dict[str, Any]]:
    """All rows of a finished evaluation, in the order of tasks and items."""
    names = [name for name in storage.list_files(folder) if name.endswith(".parquet")]
    return [
        row for name in names for row in storage.read_table(storage.join(folder, name)).to_pylist()
    ]
