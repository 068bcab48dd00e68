"""What a reader of the report can look through: generations as they came about, and wrong answers.

Plain JSON values: the page's script makes text of them, and never HTML.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.report.data import Evaluation, TokenReader

_MOST_CHARACTERS = 6000
"""Of a generation that is shown; the page would grow by megabytes."""


def animations(
    evaluation: Evaluation, rows: Sequence[dict[str, Any]], reader: TokenReader
) -> list[dict[str, Any]]:
    """Tokens of each of ``rows`` with the step that committed each; -1 where none did."""
    return [
        {
            "title": f"{evaluation.name}: {row['task']}, item {row['item_id']}",
            "tokens": reader.texts(row["tokens"]),
            "steps": row["unmask_step"],
            "prompt": row["prompt"],
        }
        for row in rows
        if row["tokens"]
    ]


def failures(evaluations: Sequence[Evaluation], num_failures: int) -> list[dict[str, Any]]:
    """Of each evaluation and task the first items that one of the two graders calls wrong."""
    return [
        found
        for evaluation in evaluations
        for task in evaluation.metrics["tasks"]
        for found in list(_failures(evaluation, task))[:num_failures]
    ]


def _failures(evaluation: Evaluation, task: str) -> Iterator[dict[str, Any]]:
    for row in evaluation.rows:
        is_wrong = not row["correct"] or row["d1_correct"] is False
        if row["task"] == task and is_wrong:
            yield {
                "evaluation": evaluation.name,
                "task": task,
                "item": row["item_id"],
                "prompt": row["prompt"],
                "generation": _cut(row["generation"]),
                "extracted": row["extracted"],
                "strict": row["correct"],
                "d1": row["d1_correct"],
                "timed_out": bool(row.get("timed_out")),
            }


def _cut(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[:_MOST_CHARACTERS]} ... ({len(text)} characters)"
