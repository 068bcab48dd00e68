"""What every task offers: problems, prompts, traces to learn from, and verdicts on text."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from weft.tasks.prompts import Prompt, d1_prompt, reasoned_response


@dataclass(frozen=True)
class Problem:
    """One item of a task; ``data`` holds plain JSON values, whose keys each task documents."""

    task: str
    item_id: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What the graders say of one generation."""

    extracted: str | None
    """The answer that the strict grader read; None where it found none."""
    d1_correct: bool | None
    """Right by the rules of the published protocol ``d1``; None for a task that it has not."""
    strict_correct: bool
    """Right by this project's own rules; the headline measure."""
    details: Mapping[str, int | bool] = field(default_factory=dict)
    """Further findings, whose names each task documents."""
    timed_out: bool = False
    """Whether a grader took too long; what it would have said then counts as wrong."""

    @property
    def correct(self) -> bool:
        """The strict verdict."""
        return self.strict_correct


@dataclass(frozen=True)
class HubName:
    """Where a benchmark is on the Hugging Face hub."""

    path: str
    split: str
    subset: str = ""


PromptStyle = Literal["compact", "d1", "llada"]


def require_style(style: str) -> None:
    """Raise ValueError unless ``style`` is one of the ``PromptStyle``."""
    if style not in get_args(PromptStyle):
        raise ValueError(f"prompt: wanted {' or '.join(get_args(PromptStyle))}, got {style!r}")


class Task(ABC):
    """One kind of problem: a subclass in a module of its own, and one entry in the registry."""

    name: str
    headline: str
    """What ``Verdict.correct`` means, as a measure over many items."""
    benchmark_file: str
    """Name of the published test file inside a data folder."""
    hub: HubName | None = None
    """Where the benchmark is where no folder is given; None for problems that are generated."""
    grades_apart: ClassVar[bool] = False
    """Whether ``grade`` may take long over some texts, so that a process of its own does it."""
    has_own_limits: ClassVar[bool] = False
    """Whether it ends all the same; if not, that process is stopped."""

    def load_benchmark(self, data_dir: str) -> list[Problem]:
        """Items of the published test file in ``data_dir``, in order; ValueError if unusable."""
        from weft.tasks.benchmarks import load_benchmark

        return load_benchmark(self, data_dir)

    @abstractmethod
    def prompt(self, problem: Problem, style: str) -> Prompt:
        """The prompt in one of the ``PromptStyle``; ValueError for another ``style``.

        ``d1``: its published form, with its prefill. ``llada``: the same user's turn alone.
        ``compact``: the question in a few tokens, for small contexts.
        """

    @abstractmethod
    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item in one row of the benchmark; ValueError saying what is wrong with it.

        The reader gives a row without ``id`` the one of its place.
        """

    @abstractmethod
    def grade(self, problem: Problem, text: str) -> Verdict:
        """The verdict on ``text``, a decoded generation with special tokens, without the prefill.

        Total: every text gets a verdict; unless it ``grades_apart``, in time proportional to its
        length.
        """

    def verdict_of_timeout(self, _problem: Problem, _text: str) -> Verdict:
        """The verdict on a text that ``grade`` was stopped over."""
        return Verdict(None, None, False, timed_out=True)

    @abstractmethod
    def aggregate(
        self, problems: Sequence[Problem], verdicts: Sequence[Verdict]
    ) -> dict[str, float | int]:
        """Measures of this task beyond the accuracy, over items and their verdicts in one order.

        A share of nothing is left out. Raises ValueError when there are no items or lengths differ.
        """


class ReasoningTask(Task):
    """A task of d1's protocol: instructions, a question, and a response in d1's tags."""

    def prompt(self, problem: Problem, style: str) -> Prompt:
        """See ``Task.prompt``."""
        require_style(style)
        if style == "compact":
            return Prompt(self.compact_question(problem))
        d1 = d1_prompt(self.d1_system, self.d1_question(problem))
        return d1 if style == "d1" else Prompt(d1.text)

    @property
    @abstractmethod
    def d1_system(self) -> str:
        """The instructions of d1's prompt."""

    @abstractmethod
    def d1_question(self, problem: Problem) -> str:
        """The question of d1's prompt."""

    @abstractmethod
    def compact_question(self, problem: Problem) -> str:
        """The whole prompt in a few tokens."""


class PuzzleTask(ReasoningTask):
    """Problems that are generated, with solvers whose traces can be learned from."""

    def response(self, problem: Problem) -> str:
        """The text to learn: a solver's trace, then its answer.

        Raises ValueError when the solver finds no solution.
        """
        trace, attempt = self.trace(problem)
        return reasoned_response(trace, attempt)

    @abstractmethod
    def identity(self, problem: Problem) -> str:
        """Canonical text of what makes the problem this problem; its fingerprint is taken of it."""

    @abstractmethod
    def generate(self, seed: int, index: int) -> Problem:
        """Problem number ``index`` of the sequence with this ``seed``; no other one is made."""

    @abstractmethod
    def trace(self, problem: Problem) -> tuple[str, str]:
        """``(trace, attempt)``: a solver's search, and its answer in the form the graders read."""


def answered_rate(problems: Sequence[Problem], verdicts: Sequence[Verdict]) -> dict[str, float]:
    """How often there was an answer to grade at all; errors as in ``Task.aggregate``."""
    check_paired(problems, verdicts)
    num_answered = sum(verdict.extracted is not None for verdict in verdicts)
    return {"answered_rate": num_answered / len(verdicts)}


def share(part: int, whole: int) -> float | None:
    """``part / whole``; None where there is nothing to take a share of."""
    return part / whole if whole else None


def check_paired(problems: Sequence[Problem], verdicts: Sequence[Verdict]) -> None:
    """Raise ValueError unless there is one verdict for each problem, and at least one."""
    if not problems or len(problems) != len(verdicts):
        raise ValueError(
            f"aggregate: wanted as many verdicts as problems and at least one, "
            f"got {len(problems)} problems and {len(verdicts)} verdicts"
        )
