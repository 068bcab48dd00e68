"""Data sets that Hugging Face ``datasets`` loads: by name, or from a folder that it saved."""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import artifacts, storage
from pipeline.config import DataSection, SourceSection
from pipeline.errors import DataError
from pipeline.sources.columns import ColumnReader
from pipeline.sources.rows import Part, Row

logger = logging.getLogger(__name__)

_SAVED = ("state.json", "dataset_dict.json")
"""What lies in a folder of ``save_to_disk``."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".rar", ".7z")


@contextlib.contextmanager
def hub_errors(what: str, remedy: str) -> Iterator[None]:
    """What ``datasets`` raises inside, as a DataError about ``what`` that ends with ``remedy``."""
    from datasets.exceptions import DatasetsError

    try:
        yield
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise DataError(f"{what}: datasets cannot load it ({reason}); {remedy}") from error


@dataclass(frozen=True)
class HubSource:
    """Rows of one split; each node keeps a copy in its cache of ``datasets``, unless streaming."""

    data: DataSection
    section: SourceSection

    @property
    def name(self) -> str:
        """The given one, or the last part of the data set's name."""
        return self.section.name or self.section.path.rstrip("/").rpartition("/")[2]

    def survey(self) -> list[Part]:
        """One part; its fingerprint is of the files, on the hub by their commit."""
        with self._clear_errors():
            files = self._files()
            commit = _commit(files)
            rows = self._open(commit)
            num_rows = self._count(rows)
            digest = artifacts.fingerprint([self.section.subset, self.section.split, files])
        if num_rows == 0:
            raise DataError(f"{self._shown}: wanted at least one row, got none")
        if rows.column_names:  # a stream may not know them
            ColumnReader(self.data, self.section, self.name).require(self._shown, rows.column_names)
        return [Part("", num_rows, digest, revision=commit)]

    def rows(self, part: Part, slice_index: int, start: int, stop: int) -> Iterator[Row]:
        """See ``Source``; of a stream, what is before ``start`` is skipped."""
        columns = ColumnReader(self.data, self.section, self.name)
        with self._clear_errors():
            rows = self._open(part.revision)
            is_stream = not hasattr(rows, "__len__")
            found = (
                rows.skip(start).take(stop - start)
                if is_stream
                else (rows.select(range(start, stop)))
            )
            for number, values in enumerate(found, start + 1):
                yield columns.row(self.section.path, number, values)

    @property
    def _shown(self) -> str:
        subset = f", subset {self.section.subset}" if self.section.subset else ""
        return f"{self.section.path} (split {self.section.split}{subset})"

    def _clear_errors(self) -> contextlib.AbstractContextManager[None]:
        return hub_errors(
            f"{self._shown}, {self.section.revision or 'its newest revision'}",
            "check name, subset and split, or save it where the hub can be reached "
            "(load_dataset(...).save_to_disk(FOLDER)) and give the folder as path",
        )

    @property
    def _is_saved(self) -> bool:
        return any(storage.exists(storage.join(self.section.path, name)) for name in _SAVED)

    def _open(self, revision: str) -> Any:
        import datasets

        datasets.disable_progress_bars()
        section = self.section
        if not self._is_saved:
            return datasets.load_dataset(
                section.path,
                section.subset or None,
                split=section.split,
                revision=revision or section.revision or None,
                streaming=section.streaming,
            )
        found = datasets.load_from_disk(section.path)
        if isinstance(found, datasets.Dataset):
            return found
        if section.split not in found:
            raise ValueError(f"wanted one of the splits {', '.join(found)}")
        return found[section.split]

    def _count(self, rows: Any) -> int:
        if hasattr(rows, "__len__"):
            return len(rows)
        listed = (rows.info.splits or {}).get(self.section.split)
        if listed is not None and listed.num_examples:
            return int(listed.num_examples)
        logger.info("counting rows=%s, whose length is not listed", self._shown)
        return sum(1 for _ in rows.select_columns([]))

    def _files(self) -> list[Any]:
        """What tells the data set's files from others: their commit, or their checksums."""
        import datasets

        if self._is_saved:
            return [storage.sha256(file) for file in storage.find_files(self.section.path)]
        builder = datasets.load_dataset_builder(
            self.section.path, self.section.subset or None, revision=self.section.revision or None
        )
        all_files = builder.config.data_files or {}
        _refuse_archives(file for names in all_files.values() for file in names)
        files = all_files.get(self.section.split, [])
        if files and all(storage.is_local(file) for file in files):
            return [storage.sha256(file) for file in files]
        origin = getattr(files, "origin_metadata", None) or builder.hash
        return [origin]


def _refuse_archives(files: Iterable[Any]) -> None:
    """Raise ValueError for files that ``datasets`` would unpack into folders."""
    for file in files:
        for name in str(file).split("::"):
            if name.lower().endswith(_ARCHIVES):
                raise ValueError(f"{name} is an archive, and none is unpacked")


def _commit(files: list[Any]) -> str:
    """The commit that the files of a data set of the hub are of; empty for others.

    What is counted is then what is read, whatever is pushed in between.
    """
    found = re.search(r"\b[0-9a-f]{40}\b", str(files))
    is_of_the_hub = bool(files) and not isinstance(files[0], str)
    return found[0] if found and is_of_the_hub else ""
