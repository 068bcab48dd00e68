"""What HumanEval and MBPP have in common: the answer is a program, and tests judge it."""

import re
from abc import abstractmethod
from collections.abc import Sequence

from weft.tasks.base import Problem, Task, Verdict, answered_rate, require_style
from weft.tasks.grading.extraction import before_end
from weft.tasks.prompts import Prompt
from weft.tasks.sandbox import run_program

_TIMEOUT_S = 10.0
_FENCE = "```"
_DEFINITION = re.compile(r"^\s*(?:async\s+def|def|class)\s", flags=re.MULTILINE)
_LANGUAGE = re.compile(r"[ \t]*(?:python3?|py)?[ \t]*\n", flags=re.IGNORECASE)


class CodeTask(Task):
    """A task whose grader runs what the model wrote; d1 has no such task, so d1 has no verdict."""

    headline = "pass@1"
    grades_apart = has_own_limits = True

    def prompt(self, problem: Problem, style: str) -> Prompt:
        """One user's turn, the same in every style."""
        require_style(style)
        return Prompt(self.request(problem))

    @abstractmethod
    def request(self, problem: Problem) -> str:
        """The user's turn."""

    @abstractmethod
    def program(self, problem: Problem, code: str) -> str:
        """``code`` with the tests behind it, which raise unless it is right."""

    def grade(self, problem: Problem, text: str) -> Verdict:
        """Strict: the last code block, or the text where there is none, passes all tests in 10 s.

        Runs the code: see ``weft.tasks.sandbox``.
        """
        code = extract_code(text)
        if not code:
            return Verdict(None, None, False)
        outcome = run_program(self.program(problem, code), timeout_s=_TIMEOUT_S)
        return Verdict(code, None, outcome.passed, timed_out=outcome.timed_out)

    def aggregate(
        self, problems: Sequence[Problem], verdicts: Sequence[Verdict]
    ) -> dict[str, float | int]:
        """``answered_rate``: how often there was code to run at all."""
        return {**answered_rate(problems, verdicts)}


def extract_code(text: str) -> str:
    """The last complete fence before the end that defines something, else the last one.

    Where there is a single fence that never closes, its rest; without any, the text.
    """
    text = before_end(text)
    parts = text.split(_FENCE)
    if len(parts) == 1:
        return text.strip("\n")
    inside = parts[1::2]
    whole = inside if len(parts) % 2 or len(inside) == 1 else inside[:-1]
    # Behind the program an example of its output may stand in a fence of its own.
    programs = [block for block in whole if _DEFINITION.search(block)]
    block = (programs or whole)[-1]
    language = _LANGUAGE.match(block)
    return block[language.end() :].rstrip() if language else block.strip()
