"""The rows of each kind of source: what a source holds, and any slice of it on its own.

Slices can be read in any order and on any node. A generated one needs nothing of the others; a file
is read from its beginning up to the slice.
"""

import dataclasses
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from pipeline import artifacts, storage
from pipeline.config import DataSection, SourceSection
from pipeline.errors import ArtifactError, DataError
from pipeline.formats import UnusableRowError, read_turns, text_of
from weft.tasks.base import Problem
from weft.tasks.prompts import reasoned_response

# Generated sources draw slice s from indices s * _SLICE_STRIDE onward: slices never overlap.
_SLICE_STRIDE = 1 << 32
_FINGERPRINTED_ROWS = 64


@dataclass(frozen=True)
class Row:
    """One row of a source: the text, or the reason why it is refused. ``position`` is the line
    number in a file (from 1), or the index of a generated problem."""

    source: str
    position: int
    prompt: str = ""
    response: str = ""
    is_chat: bool = True
    may_repeat: bool = False
    reason: str = ""
    detail: str = ""
    line: str = ""
    """Of a refused row of a file, the line as it stands there."""


def source_name(source: SourceSection) -> str:
    """The value of the column ``source`` in the prepared rows."""
    if source.kind == "jsonl":
        return PurePosixPath(source.path).name
    return source.task if source.kind == "task" else "pretraining"


def count_rows(source: SourceSection) -> int:
    """Rows of the source; DataError when its file is missing, unreadable or empty."""
    if source.kind != "jsonl":
        return source.count
    num_lines = sum(1 for _ in _lines(source.path))
    if num_lines == 0:
        raise DataError(f"{source.path}: wanted at least one line of JSON, got an empty file")
    return num_lines


def source_fingerprint(data: DataSection, source: SourceSection) -> str:
    """Checksum of a file's bytes; of a generated source, of its first rows.

    These change where a generator, a prompt or the list of benchmark items does.
    """
    if source.kind != "jsonl":
        count = min(source.count, _FINGERPRINTED_ROWS)
        rows = read_rows(data, source, slice_index=0, start=0, stop=count)
        return artifacts.fingerprint([dataclasses.astuple(row) for row in rows])
    try:
        return storage.sha256(source.path)
    except ArtifactError as error:
        raise DataError(_unreadable(source.path, error.__cause__ or error)) from error


def read_rows(
    data: DataSection, source: SourceSection, slice_index: int, start: int, stop: int
) -> Iterator[Row]:
    """Rows ``start`` to ``stop`` (exclusive) of ``source``, refused ones included.

    Generated sources yield ``stop - start`` usable rows, and beside them the ones they left out
    because they contain a problem of an evaluation set.
    """
    if source.kind == "jsonl":
        yield from _read_jsonl(data, source, start, stop)
        return
    make_row = _document if source.kind == "pretraining" else _problem
    index, found = slice_index * _SLICE_STRIDE, 0
    while found < stop - start:
        row = make_row(data, source, index)
        found += not row.reason
        yield row
        index += 1


def _document(data: DataSection, source: SourceSection, index: int) -> Row:
    from weft.tasks.pretraining import pretraining_document

    document = pretraining_document(seed=data.seed, index=index)
    row = Row(
        source_name(source),
        index,
        document.given,
        document.text,
        is_chat=document.is_chat,
        may_repeat=True,
    )
    return _without_evaluation_items(row, document.problems)


def _problem(data: DataSection, source: SourceSection, index: int) -> Row:
    from weft.tasks import get_task

    task = get_task(source.task)
    problem = task.generate(seed=data.seed, index=index)
    prompt = task.prompt(problem, data.prompt_style).text
    row = Row(task.name, index, prompt, task.response(problem))
    return _without_evaluation_items(row, (problem,))


def _without_evaluation_items(row: Row, problems: Iterable[Problem]) -> Row:
    """``row``, which contains ``problems``; refused if an evaluation asks for one of them."""
    from weft.tasks.fingerprints import fingerprint, is_benchmark_item, is_held_out

    for problem in problems:
        if is_benchmark_item(problem):
            return dataclasses.replace(row, reason="benchmark_item", detail=fingerprint(problem))
        if is_held_out(problem):
            return dataclasses.replace(row, reason="held_out_item", detail=fingerprint(problem))
    return row


def _read_jsonl(data: DataSection, source: SourceSection, start: int, stop: int) -> Iterator[Row]:
    for number, line in enumerate(_lines(source.path)):
        if number >= stop:
            return
        if number >= start:
            yield _parse(data, source, number + 1, line)


def _parse(data: DataSection, source: SourceSection, number: int, line: str) -> Row:
    def refuse(reason: str, detail: str) -> Row:
        text = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Row(source_name(source), number, reason=reason, detail=detail, line=text)

    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # also an integer of too many digits
        return refuse("malformed_json", str(error))
    if not isinstance(values, dict):
        return refuse("malformed_row", f"wanted a JSON object, got {type(values).__name__}")
    try:
        prompt, response = _turns(source, values, data.prompt_style)
    except UnusableRowError as error:
        return refuse(error.reason, str(error))
    return Row(source_name(source), number, prompt=prompt, response=response)


def _turns(source: SourceSection, values: dict[str, Any], prompt_style: str) -> tuple[str, str]:
    if source.format != "columns":
        return read_turns(source.format, values, prompt_style)
    prompt = text_of(values, source.prompt_column) if source.prompt_column else ""
    response = text_of(values, source.response_column)
    if source.reasoning_column:
        response = reasoned_response(text_of(values, source.reasoning_column), response)
    return prompt, response


def _lines(path: str) -> Iterator[str]:
    """Text lines of ``path``; bytes that are no UTF-8 become lone surrogates."""
    try:
        content: Any = storage.open_binary(path)
        with content as raw:
            unpacked = gzip.GzipFile(fileobj=raw) if path.endswith(".gz") else raw
            yield from io.TextIOWrapper(unpacked, encoding="utf-8", errors="surrogateescape")
    except (OSError, EOFError, zlib.error, ArtifactError) as error:
        raise DataError(_unreadable(path, error)) from error


def _unreadable(path: str, error: BaseException) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{path}: the source cannot be read ({reason}); check the path in [[data.sources]]"
