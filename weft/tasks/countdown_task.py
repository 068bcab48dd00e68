"""The task Countdown with three numbers.

``Problem.data``: ``numbers`` (a list), ``target`` and ``example_solution``, an expression.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weft.tasks import countdown
from weft.tasks.base import Problem, PuzzleTask, Verdict, answered_rate
from weft.tasks.benchmarks import require_integer, require_string
from weft.tasks.grading import countdown as grading
from weft.tasks.prompts import D1_FORMAT

# No space and no line break before the format: that is how the protocol has it.
_D1_SYSTEM = (
    "Using only the provided numbers, create an arithmetic expression that evaluates to exactly "
    "the provided target number. You may use the operations +, -, *, and / as needed, but each "
    "number must be used exactly once. Think step-by-step. After reasoning, provide only your "
    "final expression inside \\boxed{} tags without including an equals sign or the target number. "
    "For example: \\boxed{a + b * c}" + D1_FORMAT
)


class CountdownTask(PuzzleTask):
    """Combine three numbers into a target."""

    name = "countdown"
    headline = "accuracy"
    benchmark_file = "countdown_cd3_test.jsonl"

    @property
    def d1_system(self) -> str:
        """The instructions of d1's prompt."""
        return _D1_SYSTEM

    def d1_question(self, problem: Problem) -> str:
        """The question of d1's prompt."""
        return f"Numbers: {problem.data['numbers']}\nTarget: {problem.data['target']}"

    def compact_question(self, problem: Problem) -> str:
        """``countdown  30 100  93 =  23``, the numbers right-aligned."""
        numbers = " ".join(f"{number:>3}" for number in problem.data["numbers"])
        return f"countdown {numbers} = {problem.data['target']:>3}"

    def identity(self, problem: Problem) -> str:
        """The numbers in rising order, and the target: ``30 93 100=23``."""
        numbers = " ".join(str(number) for number in sorted(problem.data["numbers"]))
        return f"{numbers}={problem.data['target']}"

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item with its numbers, its target and a solution that the strict grader accepts."""
        numbers = _require_numbers(row)
        target = require_integer(row, "target", least=1)
        solution = require_string(row, "example_solution")
        if not grading.strict_is_correct(solution, numbers, target):
            raise ValueError(
                f"wanted {target} from {numbers} as 'example_solution', got {solution!r}"
            )
        return _problem(require_string(row, "id"), numbers, target, solution)

    def generate(self, seed: int, index: int) -> Problem:
        """Three numbers from 1 to 100 that make a target from 1 to 100."""
        numbers, target = countdown.generate_problem(np.random.default_rng([seed, index]))
        _, solution = countdown.solution_trace(numbers, target)
        return _problem(f"countdown-{seed}-{index}", list(numbers), target, solution)

    def trace(self, problem: Problem) -> tuple[str, str]:
        """The solver's search, and the boxed expression it found; ValueError without a solution."""
        numbers, target = tuple(problem.data["numbers"]), problem.data["target"]
        trace, expression = countdown.solution_trace(numbers, target)
        return trace, f"\\boxed{{{expression}}}"

    def grade(self, problem: Problem, text: str) -> Verdict:
        """Strict: exactly the target, from every number once and ``+ - * / ( )``."""
        numbers, target = problem.data["numbers"], problem.data["target"]
        answer = grading.strict_extract(text)
        return Verdict(
            extracted=answer,
            d1_correct=grading.d1_is_correct(text, numbers, target),
            strict_correct=grading.strict_is_correct(answer, numbers, target),
        )

    def aggregate(
        self, problems: Sequence[Problem], verdicts: Sequence[Verdict]
    ) -> dict[str, float | int]:
        """``answered_rate``: how often there was an answer to grade at all."""
        return {**answered_rate(problems, verdicts)}


def _require_numbers(row: Mapping[str, Any]) -> list[int]:
    numbers, wanted = row.get("numbers"), countdown.NUM_NUMBERS
    is_right = isinstance(numbers, list) and len(numbers) == wanted
    if not is_right or any(type(number) is not int or number < 1 for number in numbers or []):
        raise ValueError(f"wanted {wanted} whole numbers above 0 as 'numbers', got {numbers!r}")
    return list(numbers or [])


def _problem(item_id: str, numbers: list[int], target: int, solution: str) -> Problem:
    data = {"numbers": numbers, "target": target, "example_solution": solution}
    return Problem("countdown", item_id, data)


TASK = CountdownTask()
