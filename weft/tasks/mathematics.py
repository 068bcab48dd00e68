"""What GSM8K and MATH-500 have in common: the question is the prompt, math-verify is the judge."""

from abc import abstractmethod
from collections.abc import Sequence

from weft.tasks.base import Problem, ReasoningTask, Verdict, answered_rate
from weft.tasks.grading.extraction import before_end, last_answer, last_balanced_box
from weft.tasks.math_answers import is_same_answer

_OPEN_BOX = "\\boxed{"


def _strict_extract(text: str) -> str | None:
    box = last_balanced_box(text)
    if box is not None:
        return box
    answer = last_answer(text)
    # In an answer tag a box that never closes still says what the answer is.
    return None if answer is None else answer.removeprefix(_OPEN_BOX)


class MathTask(ReasoningTask):
    """``Problem.data`` has ``question`` and ``answer``."""

    headline = "accuracy"
    grades_apart = True

    def d1_question(self, problem: Problem) -> str:
        """The question of d1's prompt."""
        return str(problem.data["question"])

    def compact_question(self, problem: Problem) -> str:
        """The question, and how to answer."""
        return f"{problem.data['question']}\nPut your final answer within \\boxed{{}}."

    @abstractmethod
    def d1_verdict(self, problem: Problem, text: str) -> bool:
        """Right by the rules of d1."""

    def grade(self, problem: Problem, text: str) -> Verdict:
        """Strict: math-verify on the last balanced box before the end, else the last answer tag."""
        answer = _strict_extract(before_end(text))
        is_right = bool(answer) and is_same_answer(str(answer), problem.data["answer"])
        return Verdict(answer, self.d1_verdict(problem, text), is_right)

    def verdict_of_timeout(self, problem: Problem, text: str) -> Verdict:
        """d1's verdict, which takes no time, beside a strict one that was never reached."""
        answer = _strict_extract(before_end(text))
        return Verdict(answer, self.d1_verdict(problem, text), False, timed_out=True)

    def aggregate(
        self, problems: Sequence[Problem], verdicts: Sequence[Verdict]
    ) -> dict[str, float | int]:
        """``answered_rate``: how often there was an answer to grade at all."""
        return {**answered_rate(problems, verdicts)}
