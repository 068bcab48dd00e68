"""Parquet files written and read piece by piece, so that a shard need not fit into memory."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ArtifactError


@contextlib.contextmanager
def table_writer(path: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """A function that appends a table as one row group to ``path``.

    The file is there once the block has ended well, and not at all before; equal calls give equal
    bytes.
    """
    with (
        storage.written_whole(path) as file,
        pq.ParquetWriter(file, schema, compression="zstd") as writer,
    ):
        yield writer.write_table


def row_groups(path: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The row groups of ``path``, one after another; ArtifactError when it cannot be read."""
    number = 0
    while True:
        table = _read(path, number, columns)
        if table is None:
            return
        yield table
        number += 1


def _read(path: str, number: int, columns: Sequence[str] | None) -> pa.Table | None:
    """Row group ``number``; None behind the last one."""

    def read() -> pa.Table | None:
        with storage.open_binary(path) as content:
            # Without pyarrow's thread pools, which now and then abort a process at its exit.
            file = pq.ParquetFile(content, pre_buffer=False)
            if number >= file.num_row_groups:
                return None
            return file.read_row_group(number, columns=columns, use_threads=False)

    try:
        return storage.retried(path, read)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path}: cannot be read as Parquet ({error}); start again, or repeat its stage with "
            f"--overwrite if it is damaged"
        ) from error
