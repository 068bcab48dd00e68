"""What a source is made of: parts that are counted once, and rows of any slice of a part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Part:
    """A file of a source; of a source without files, all of it."""

    name: str
    """Address of the file, or empty."""
    num_rows: int
    fingerprint: str
    """Changes where the rows do."""
    marks: tuple[int, ...] = ()
    """Where reading can begin, in the unit of the file's reader; empty: only at its beginning."""
    revision: str = ""
    """Of a data set of the hub, the commit."""


@dataclass(frozen=True)
class Row:
    """One row of a source: the text, or the reason why it is refused."""

    source: str
    position: int
    """Number of the line or row in its file, from 1; index of a generated problem."""
    file: str = ""
    prompt: str = ""
    response: str = ""
    is_chat: bool = True
    may_repeat: bool = False
    is_generated: bool = False
    question: str = ""
    """What is asked, without instructions on the form of an answer."""
    answer: str = ""
    """What the response ends with as its answer, where that stands apart."""
    solution: str | None = None
    """The right answer, where the source has it and wants it compared."""
    reason: str = ""
    detail: str = ""
    line: str = ""
    """Of a refused row of a file, the row as it stands there."""


class Source(Protocol):
    """Rows of one ``[[data.sources]]``; slices can be read in any order and on any node."""

    @property
    def name(self) -> str:
        """The value of the column ``source`` in the prepared rows."""
        ...

    def survey(self) -> list[Part]:
        """The parts, each counted; DataError where there is none, or one that cannot be used."""
        ...

    def rows(self, part: Part, slice_index: int, start: int, stop: int) -> Iterator[Row]:
        """Rows ``start`` to ``stop`` (exclusive) of ``part``, refused ones included.

        Of a generated source ``stop - start`` usable ones, drawn for ``slice_index`` alone.
        """
        ...
