"""Known data sets of reasoning traces: which columns make a question, its reasoning and an answer.

Column names are those of the data sets as they are published; see docs/data.md.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from weft.tasks.prompts import d1_sft_prompt, reasoned_response

Values = Mapping[str, Any]
"""One row, by column."""


class UnusableRowError(ValueError):
    """Why a row cannot be used: a short ``reason`` to count by; the text says more."""

    def __init__(self, reason: str, detail: str) -> None:
        """See the class."""
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Trace:
    """One example of a data set."""

    question: str
    reasoning: str
    answer: str

    def prompt(self, prompt_style: str) -> str:
        """The user's turn: the question, under the style d1 behind d1's instructions."""
        return d1_sft_prompt(self.question) if prompt_style == "d1" else self.question

    @property
    def response(self) -> str:
        """The assistant's turn in d1's form."""
        return reasoned_response(self.reasoning, self.answer)


@dataclass(frozen=True)
class Format:
    """How the rows of a known data set are read."""

    read: Callable[[Values], Trace]
    """Raises UnusableRowError."""
    columns: tuple[str, ...]
    """What ``read`` needs."""


def text_of(values: Values, column: str) -> str:
    """The string in ``column``; UnusableRowError where there is none, or one that is no Unicode."""
    return _as_text(values.get(column), column)


def _as_text(value: Any, column: str) -> str:
    if not isinstance(value, str):
        got = "nothing" if value is None else type(value).__name__
        raise UnusableRowError("malformed_row", f"column {column!r}: wanted a string, got {got}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        what = "half of a surrogate pair, or bytes that are no UTF-8"
        raise UnusableRowError("malformed_row", f"column {column!r}: {what}")
    return value


def _list_of(values: Values, column: str) -> list[Any]:
    value = values.get(column)
    if not isinstance(value, list) or not value:
        got = "nothing" if value in (None, []) else type(value).__name__
        raise UnusableRowError("malformed_row", f"column {column!r}: wanted a list, got {got}")
    return value


def _s1k(values: Values) -> Trace:
    """simplescaling/s1K: the first of the trajectories, which is the only one."""
    trajectories = _list_of(values, "thinking_trajectories")
    reasoning = _as_text(trajectories[0], "thinking_trajectories")
    return Trace(text_of(values, "question"), reasoning, text_of(values, "attempt"))


def _s1k_11(values: Values) -> Trace:
    """simplescaling/s1K-1.1: the traces of DeepSeek-R1, which s1.1 was trained on."""
    return Trace(
        text_of(values, "question"),
        text_of(values, "deepseek_thinking_trajectory"),
        text_of(values, "deepseek_attempt"),
    )


_THOUGHT = re.compile(r"\s*<think>(.*?)</think>(.*)", flags=re.DOTALL)


def _openr1_math(values: Values) -> Trace:
    """open-r1/OpenR1-Math-220k: the first generation that math-verify found right and that ends."""
    generations = _list_of(values, "generations")
    verdicts = _list_of(values, "correctness_math_verify")
    if len(verdicts) != len(generations):
        raise UnusableRowError(
            "malformed_row",
            f"wanted a verdict for each of {len(generations)} generations, got {len(verdicts)}",
        )
    for text, is_correct in zip(generations, verdicts, strict=True):
        parts = _THOUGHT.fullmatch(text) if is_correct is True and isinstance(text, str) else None
        if parts is not None and parts[2].strip():
            thought, answer = (_as_text(part, "generations").strip() for part in parts.groups())
            return Trace(text_of(values, "problem"), thought, answer)
    raise UnusableRowError(
        "no_correct_generation", f"none of {len(generations)} generations is right and whole"
    )


_CALCULATION = re.compile(r"<<[^<>]*>>")


def _gsm8k(values: Values) -> Trace:
    """openai/gsm8k: the solution without its calculator's marks; the answer behind ``####``."""
    solution, mark, answer = text_of(values, "answer").rpartition("####")
    if not mark or not answer.strip():
        raise UnusableRowError("malformed_row", "column 'answer': wanted an answer behind ####")
    number = answer.strip().replace(",", "")
    reasoning = _CALCULATION.sub("", solution).strip()
    return Trace(text_of(values, "question"), reasoning, f"\\boxed{{{number}}}")


FORMATS: dict[str, Format] = {
    "s1k": Format(_s1k, ("question", "thinking_trajectories", "attempt")),
    "s1k-1.1": Format(_s1k_11, ("question", "deepseek_thinking_trajectory", "deepseek_attempt")),
    "openr1-math": Format(_openr1_math, ("problem", "generations", "correctness_math_verify")),
    "gsm8k": Format(_gsm8k, ("question", "answer")),
}
