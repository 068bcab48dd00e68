"""The task MATH-500: competition mathematics.

``Problem.data``: ``question``, ``answer`` in LaTeX, ``subject`` and ``level`` (1 to 5, or None).
"""

from collections.abc import Mapping
from typing import Any

from weft.tasks.base import HubName, Problem
from weft.tasks.benchmarks import require_string
from weft.tasks.grading import math500 as grading
from weft.tasks.mathematics import MathTask
from weft.tasks.prompts import D1_FORMAT

# The quotation mark and the space at the end are the protocol's.
_D1_SYSTEM = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the "
    "final answer in a \\boxed{}.\n" + D1_FORMAT + '" \n'
)


class Math500Task(MathTask):
    """Questions whose answer is an expression."""

    name = "math500"
    benchmark_file = "math500.jsonl"
    hub = HubName("HuggingFaceH4/MATH-500", "test")

    @property
    def d1_system(self) -> str:
        """The instructions of d1's prompt."""
        return _D1_SYSTEM

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item; on the hub its columns are called ``problem`` and ``unique_id``."""
        question = require_string(row, "question" if "question" in row else "problem")
        item_id = require_string(row, "unique_id" if "unique_id" in row else "id")
        level = row.get("level")
        data = {
            "question": question,
            "answer": require_string(row, "answer"),
            "subject": str(row.get("subject") or ""),
            "level": level if type(level) is int else None,
        }
        return Problem(self.name, item_id, data)

    def d1_verdict(self, problem: Problem, text: str) -> bool:
        """d1's box is the answer, up to notation."""
        return grading.d1_is_correct(text, problem.data["answer"])


TASK = Math500Task()
