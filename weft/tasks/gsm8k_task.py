"""The task GSM8K: grade-school mathematics in words.

``Problem.data``: ``question``, and ``answer``, a number as text without commas.
"""

from collections.abc import Mapping
from typing import Any

from weft.tasks.base import HubName, Problem
from weft.tasks.benchmarks import require_string
from weft.tasks.grading import gsm8k as grading
from weft.tasks.mathematics import MathTask
from weft.tasks.prompts import D1_FORMAT

_D1_SYSTEM = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the "
    "final answer in a \\boxed{}. \n" + D1_FORMAT
)
_MARK = "####"


class Gsm8kTask(MathTask):
    """Questions whose answer is a number."""

    name = "gsm8k"
    benchmark_file = "gsm8k_test.jsonl"
    hub = HubName("openai/gsm8k", "test", "main")

    @property
    def d1_system(self) -> str:
        """The instructions of d1's prompt."""
        return _D1_SYSTEM

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item; the answer alone, or behind ``####`` at the end of the solution."""
        question = require_string(row, "question")
        answer = require_string(row, "answer").rpartition(_MARK)[2].strip().replace(",", "")
        try:
            float(answer)
        except ValueError as error:
            raise ValueError(
                f"wanted a number, alone or behind {_MARK}, as 'answer', got {answer[:80]!r}"
            ) from error
        data = {"question": question, "answer": answer}
        return Problem(self.name, require_string(row, "id"), data)

    def d1_verdict(self, problem: Problem, text: str) -> bool:
        """d1's number is that of the answer."""
        return grading.d1_is_correct(text, problem.data["answer"])


TASK = Gsm8kTask()
