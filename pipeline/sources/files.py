"""Files of rows: one, a folder, or all that a pattern matches, local or on object storage."""

import itertools
import logging
import lzma
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline import storage
from pipeline.config import DataSection, SourceSection
from pipeline.errors import ArtifactError, DataError
from pipeline.sources.columns import ColumnReader, refused
from pipeline.sources.readers import RawRow, Reader, endings, is_json, reader_of
from pipeline.sources.rows import Part, Row

logger = logging.getLogger(__name__)

_SURVEY_THREADS = 8
_ROWS_AT_ONCE = 64
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, ArtifactError)


@dataclass(frozen=True)
class FileSource:
    """Rows of files; the slice of a plain or Parquet file is read without what is before it."""

    data: DataSection
    section: SourceSection

    @property
    def name(self) -> str:
        """The given one, or the last part of the path."""
        return self.section.name or PurePosixPath(self.section.path).name

    def survey(self) -> list[Part]:
        """One part a file, without empty ones."""
        files = self._files()
        with ThreadPoolExecutor(_SURVEY_THREADS) as pool:
            parts = list(pool.map(self._survey_file, files))
        for part in parts:
            if part.num_rows == 0:
                logger.warning("left out empty_file=%s", part.name)
        found = [part for part in parts if part.num_rows]
        if not found:
            raise DataError(f"{self.section.path}: wanted at least one row, got an empty file")
        return found

    def _files(self) -> list[str]:
        path = self.section.path
        try:
            found = storage.find_files(path)
        except ArtifactError as error:
            raise DataError(_unreadable(path, error)) from error
        if not found:
            raise DataError(_unreadable(path, FileNotFoundError("there is no such file")))
        known = [file for file in found if reader_of(file) is not None]
        if not known or (len(known) < len(found) and "*" in path):
            odd = next(file for file in found if file not in known)
            raise DataError(f"{odd}: wanted a name that ends with {endings()}")
        return known

    def _survey_file(self, path: str) -> Part:
        reader = _reader(path)
        try:
            columns = storage.retried(path, lambda: reader.columns(path))
            num_rows, marks = storage.retried(path, lambda: reader.count(path))
            digest = storage.sha256(path)
        except _UNREADABLE as error:
            raise DataError(_unreadable(path, error)) from error
        if columns is not None and num_rows:
            self._columns.require(path, columns)
        return Part(path, num_rows, digest, marks)

    @property
    def _columns(self) -> ColumnReader:
        return ColumnReader(self.data, self.section, self.name)

    def rows(self, part: Part, slice_index: int, start: int, stop: int) -> Iterator[Row]:
        """See ``Source``."""
        columns = self._columns
        for number, values, line in _raw_rows(part, start, stop):
            if isinstance(values, ValueError):
                row = Row(self.name, number, part.name)
                kind = "malformed_json" if is_json(part.name) else "malformed_row"
                yield refused(row, kind, str(values), line)
            else:
                yield columns.row(part.name, number, values, line)


def _raw_rows(part: Part, start: int, stop: int) -> Iterator[RawRow]:
    """The rows; where remote storage fails for a while, read on from where it failed."""
    reader = _reader(part.name)
    rows: Iterator[RawRow] | None = None

    def read_on() -> list[RawRow]:
        nonlocal rows
        rows = rows or reader.read(part.name, part.marks, start)
        try:
            return list(itertools.islice(rows, min(_ROWS_AT_ONCE, stop - start)))
        except BaseException:
            rows = None
            raise

    while start < stop:
        try:
            found = storage.retried(part.name, read_on)
        except _UNREADABLE as error:
            raise DataError(_unreadable(part.name, error)) from error
        if not found:
            raise DataError(f"{part.name}: wanted {stop} rows, got {start}; it was changed")
        start += len(found)
        yield from found


def _reader(path: str) -> Reader:
    reader = reader_of(path)
    assert reader is not None, path
    return reader


def _unreadable(path: str, error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, ArtifactError) else None
    reason = getattr(cause or error, "strerror", None) or str(cause or error)
    return f"{path}: the source cannot be read ({reason}); check the path in [[data.sources]]"
