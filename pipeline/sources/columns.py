"""From the columns of a file or a data set to a row: the text, or why it cannot be used."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import DataSection, SourceSection
from pipeline.errors import DataError
from pipeline.sources.formats import FORMATS, UnusableRowError, Values, text_of
from pipeline.sources.rows import Row
from weft.tasks.prompts import reasoned_response

_YES = ("true", "yes", "correct", "1")
_NO = ("false", "no", "incorrect", "wrong", "0")


@dataclass(frozen=True)
class ColumnReader:
    """Reads rows in the columns that a source names."""

    data: DataSection
    section: SourceSection
    name: str

    @property
    def columns(self) -> tuple[str, ...]:
        """What every row must have."""
        own = (
            self.section.prompt_column,
            self.section.response_column,
            self.section.reasoning_column,
        )
        wanted = own if self.section.format == "columns" else FORMATS[self.section.format].columns
        wanted += (self.section.correct_column, self.section.solution_column)
        return tuple(dict.fromkeys(column for column in wanted if column))

    def require(self, where: str, found: Sequence[str]) -> None:
        """Raise DataError naming the columns that ``where`` lacks; it has those ``found``."""
        missing = [column for column in self.columns if column not in found]
        if missing:
            raise DataError(
                f"{where}: wanted the columns {', '.join(missing)}, got {', '.join(found)}; name "
                f"yours in [[data.sources]], or choose another format"
            )

    def row(self, file: str, position: int, values: Any, line: str = "") -> Row:
        """The row with ``values``; ``line`` is how it stands in the file, if that is text."""
        row = Row(self.name, position, file)
        try:
            if not isinstance(values, dict):
                got = type(values).__name__
                raise UnusableRowError("malformed_row", f"wanted a JSON object, got {got}")
            return self._checked(self._with_text(row, values), values)
        except UnusableRowError as error:
            shown = line or _as_json(values)
            return refused(row, error.reason, str(error), shown)

    def _with_text(self, row: Row, values: Values) -> Row:
        section = self.section
        if section.format != "columns":
            trace = FORMATS[section.format].read(values)
            _require_content(question=trace.question, trace=trace.reasoning)
            return dataclasses.replace(
                row,
                prompt=trace.prompt(self.data.prompt_style),
                response=trace.response,
                question=trace.question,
                answer=trace.answer,
            )
        prompt = ""
        if section.prompt_column:
            prompt = text_of(values, section.prompt_column)
            _require_content(question=prompt)
        # Questions alone, to which responses are generated, have no such column.
        answer = text_of(values, section.response_column) if section.response_column else ""
        response = answer
        if section.reasoning_column:
            reasoning = text_of(values, section.reasoning_column)
            _require_content(trace=reasoning)
            response = reasoned_response(reasoning, answer)
        return dataclasses.replace(
            row, prompt=prompt, response=response, question=prompt, answer=answer
        )

    def _checked(self, row: Row, values: Values) -> Row:
        if self.section.correct_column:
            _require_right(values, self.section.correct_column)
        if not self.section.solution_column:
            return row
        solution = values.get(self.section.solution_column)
        if isinstance(solution, int | float) and not isinstance(solution, bool):
            return dataclasses.replace(row, solution=str(solution))
        return dataclasses.replace(row, solution=text_of(values, self.section.solution_column))


def refused(row: Row, reason: str, detail: str, line: str) -> Row:
    """``row`` without its text, and with the reason and the line that it came from."""
    shown = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Row(row.source, row.position, row.file, reason=reason, detail=detail, line=shown)


def _require_content(**texts: str) -> None:
    for name, text in texts.items():
        if not text.strip():
            raise UnusableRowError(f"empty_{name}", f"the {name} is empty")


def _require_right(values: Values, column: str) -> None:
    verdict = str(values.get(column)).strip().lower()
    if verdict in _NO:
        raise UnusableRowError("marked_wrong", f"column {column!r}: {values.get(column)!r}")
    if verdict not in _YES:
        raise UnusableRowError(
            "malformed_row",
            f"column {column!r}: wanted a verdict ({', '.join(_YES + _NO)}), got "
            f"{str(values.get(column))[:80]!r}",
        )


def _as_json(values: Any) -> str:
    text = json.dumps(values, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")
