"""Rows of the kinds of files that there are: counted once, then read from any row onward.

A row is yielded as ``(number from 1, values, line)``; ``values`` is a ValueError where the row
itself is broken. What makes the rest of a file unreadable is raised.
"""

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Protocol

from pipeline import storage
from pipeline.errors import DataError

RawRow = tuple[int, Any, str]

COMPRESSIONS = (".gz", ".bz2", ".xz")
_MARK_EVERY = 1024
_CHUNK_BYTES = 1 << 20
_BATCH_ROWS = 64
_LONGEST_FIELD = 1 << 30


class Reader(Protocol):
    """How one kind of file is read."""

    def count(self, path: str) -> tuple[int, tuple[int, ...]]:
        """Rows of the file, and marks from which ``read`` can begin."""
        ...

    def columns(self, path: str) -> Sequence[str] | None:
        """Names of the columns, where a file has them for all of its rows."""
        ...

    def read(self, path: str, marks: Sequence[int], start: int) -> Iterator[RawRow]:
        """Rows from index ``start`` onward."""
        ...


def reader_of(path: str) -> Reader | None:
    """The reader for a file of this name; None where its ending says nothing."""
    name = path.lower()
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return _READERS.get(name.rpartition(".")[2])


def is_json(path: str) -> bool:
    """Whether the rows of a file of this name are JSON values."""
    return isinstance(reader_of(path), JsonLines | JsonArray)


def endings() -> str:
    """What a file's name may end with, in words."""
    kinds = ", ".join(f".{ending}" for ending in _READERS)
    return f"{kinds}; also with {', '.join(COMPRESSIONS)} behind it"


def _text(content: BinaryIO, newline: str | None = None) -> io.TextIOWrapper:
    """Text of ``content``; bytes that are no UTF-8 become lone surrogates, a BOM is left out."""
    return io.TextIOWrapper(content, "utf-8-sig", errors="surrogateescape", newline=newline)


def _is_packed(path: str) -> bool:
    return path.lower().endswith(COMPRESSIONS)


class JsonLines:
    """One JSON value a line; a broken one costs that line alone."""

    def count(self, path: str) -> tuple[int, tuple[int, ...]]:
        """Marks are the offsets of every 1,024th line, of a file that is not compressed."""
        num_lines, offset, marks = 0, 0, [0]
        last = b"\n"
        with storage.open_unpacked(path) as content:
            while chunk := content.read(_CHUNK_BYTES):
                found = chunk.count(b"\n")
                for mark in range(len(marks) * _MARK_EVERY, num_lines + found + 1, _MARK_EVERY):
                    marks.append(offset + _behind_line(chunk, mark - num_lines))
                num_lines += found
                offset += len(chunk)
                last = chunk[-1:]
        num_lines += last != b"\n"
        return num_lines, () if _is_packed(path) else tuple(marks)

    def columns(self, path: str) -> None:
        """Each line has its own."""

    def read(self, path: str, marks: Sequence[int], start: int) -> Iterator[RawRow]:
        """See ``Reader``; from the mark before ``start``."""
        mark = min(start // _MARK_EVERY, len(marks) - 1) if marks else 0
        with storage.open_unpacked(path) as content:
            content.seek(marks[mark] if marks else 0)
            lines = enumerate(_text(content, newline="\n"), mark * _MARK_EVERY)
            for number, line in itertools.dropwhile(lambda item: item[0] < start, lines):
                yield number + 1, _parsed(line), line


def _behind_line(chunk: bytes, count: int) -> int:
    """Where in ``chunk`` the text behind its ``count``-th line feed begins."""
    position = 0
    for _ in range(count):
        position = chunk.index(b"\n", position) + 1
    return position


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:  # also an integer of too many digits
        return ValueError(str(error))


class JsonArray:
    """One array of objects, read as a stream; or JSON lines, where it does not begin with one."""

    def count(self, path: str) -> tuple[int, tuple[int, ...]]:
        """No marks in an array."""
        if not self._is_array(path):
            return JsonLines().count(path)
        return sum(1 for _ in self._items(path)), ()

    def columns(self, path: str) -> None:
        """Each object has its own."""

    def read(self, path: str, marks: Sequence[int], start: int) -> Iterator[RawRow]:
        """See ``Reader``."""
        if not self._is_array(path):
            return JsonLines().read(path, marks, start)
        rows = ((n, values, "") for n, values in enumerate(self._items(path), 1))
        return itertools.islice(rows, start, None)

    def _is_array(self, path: str) -> bool:
        with storage.open_unpacked(path) as content:
            return bool(content.read(_CHUNK_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] == b"[")

    def _items(self, path: str) -> Iterator[Any]:
        import ijson

        number = 0
        try:
            with storage.open_unpacked(path) as content:
                if content.read(3) != b"\xef\xbb\xbf":
                    content.seek(0)
                for values in ijson.items(content, "item", use_float=True):
                    yield values
                    number += 1
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: broken JSON behind element {number} of the array ({error}); mend it, or "
                f"give the file as JSON lines, where a broken line costs that line alone"
            ) from error


class Csv:
    """Comma- or tab-separated values under a line of column names."""

    def __init__(self, delimiter: str) -> None:
        """``delimiter`` stands between the values."""
        self.delimiter = delimiter

    def count(self, path: str) -> tuple[int, tuple[int, ...]]:
        """No marks: a line feed may stand inside a value."""
        return sum(1 for _ in self.read(path, (), 0)), ()

    def columns(self, path: str) -> Sequence[str]:
        """The first record."""
        with storage.open_unpacked(path) as content:
            return next(self._records(path, content), [])

    def read(self, path: str, marks: Sequence[int], start: int) -> Iterator[RawRow]:
        """See ``Reader``."""
        with storage.open_unpacked(path) as content:
            records = self._records(path, content)
            names = next(records, [])
            for number, record in enumerate(itertools.islice(records, start, None), start + 1):
                if len(record) == len(names):
                    yield number, dict(zip(names, record, strict=True)), ""
                else:
                    what = f"wanted {len(names)} values, got {len(record)}"
                    yield number, ValueError(what), self.delimiter.join(record)

    def _records(self, path: str, content: BinaryIO) -> Iterator[list[str]]:
        csv.field_size_limit(_LONGEST_FIELD)
        reader = csv.reader(_text(content, newline=""), delimiter=self.delimiter, strict=True)
        begins = 1
        try:
            for record in reader:
                begins = reader.line_num + 1
                if record:
                    yield record
        except csv.Error as error:
            raise DataError(
                f"{path}: the record that begins in line {begins} is broken ({error}); is a "
                f"quotation mark missing?"
            ) from error


class Parquet:
    """Apache Parquet, row group by row group."""

    def count(self, path: str) -> tuple[int, tuple[int, ...]]:
        """Marks are the first rows of the row groups."""
        with storage.open_binary(path) as content:
            metadata = self._open(path, content).metadata
            sizes = [metadata.row_group(k).num_rows for k in range(metadata.num_row_groups)]
        return sum(sizes), tuple(itertools.accumulate(sizes, initial=0))[:-1]

    def columns(self, path: str) -> Sequence[str]:
        """From the schema."""
        with storage.open_binary(path) as content:
            return list(self._open(path, content).schema_arrow.names)

    def read(self, path: str, marks: Sequence[int], start: int) -> Iterator[RawRow]:
        """See ``Reader``; from the row group of ``start``."""
        group = max((k for k, first in enumerate(marks) if first <= start), default=0)
        number = marks[group] if marks else 0
        with storage.open_binary(path) as content, _whole(path):
            file = self._open(path, content)
            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, use_threads=False):
                skipped = min(max(0, start - number), batch.num_rows)
                rows = batch.slice(skipped).to_pylist()
                yield from ((n, row, "") for n, row in enumerate(rows, number + skipped + 1))
                number += batch.num_rows

    def _open(self, path: str, content: BinaryIO) -> Any:
        import pyarrow.parquet as pq

        with _whole(path):
            return pq.ParquetFile(content, pre_buffer=False)


@contextlib.contextmanager
def _whole(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a whole Parquet file ({error})") from error


_READERS: dict[str, Reader] = {
    "jsonl": JsonLines(),
    "ndjson": JsonLines(),
    "json": JsonArray(),
    "csv": Csv(","),
    "tsv": Csv("\t"),
    "parquet": Parquet(),
}
