"""Generated problems with their solvers' traces, and generated text to pre-train on."""

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline import artifacts
from pipeline.config import DataSection, SourceSection
from pipeline.sources.rows import Part, Row
from weft.tasks.base import Problem

# Slice s is drawn from indices s * _SLICE_STRIDE onward: slices never overlap.
_SLICE_STRIDE = 1 << 32
_FINGERPRINTED_ROWS = 64


@dataclass(frozen=True)
class GeneratedSource:
    """Rows that a seed decides, whatever slice they are asked for in."""

    data: DataSection
    section: SourceSection

    @property
    def name(self) -> str:
        """The given one, or the task's."""
        return self.section.name or self.section.task or self.section.kind

    def survey(self) -> list[Part]:
        """One part. Its fingerprint is of its first rows.

        These change where a generator, a prompt or the list of benchmark items does.
        """
        count = min(self.section.count, _FINGERPRINTED_ROWS)
        first = self.rows(Part("", count, ""), slice_index=0, start=0, stop=count)
        digest = artifacts.fingerprint([dataclasses.astuple(row) for row in first])
        return [Part("", self.section.count, digest)]

    def rows(self, part: Part, slice_index: int, start: int, stop: int) -> Iterator[Row]:
        """See ``Source``; besides, the rows left out because an evaluation asks for them."""
        make_row = self._document if self.section.kind == "pretraining" else self._problem
        index, found = slice_index * _SLICE_STRIDE, 0
        while found < stop - start:
            row = make_row(index)
            found += not row.reason
            yield row
            index += 1

    def _document(self, index: int) -> Row:
        from weft.tasks.pretraining import pretraining_document

        document = pretraining_document(seed=self.data.seed, index=index)
        row = Row(
            self.name,
            index,
            prompt=document.given,
            response=document.text,
            is_chat=document.is_chat,
            may_repeat=True,
            is_generated=True,
        )
        return _without_evaluation_items(row, document.problems)

    def _problem(self, index: int) -> Row:
        from weft.tasks import get_puzzle

        task = get_puzzle(self.section.task)
        problem = task.generate(seed=self.data.seed, index=index)
        prompt = task.prompt(problem, self.data.prompt_style).text
        row = Row(
            self.name, index, prompt=prompt, response=task.response(problem), is_generated=True
        )
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
