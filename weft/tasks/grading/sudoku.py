"""Verdicts on Sudoku answers: d1's published rules, and strict ones."""

import re

from weft.tasks.grading.extraction import (
    ANSWER_CLOSE,
    ANSWER_OPEN,
    END_TOKENS,
    before_end,
    first_of,
    last_answer,
)
from weft.tasks.sudoku import DIGITS, NUM_CELLS

# Possessive quantifiers: without giving back, no run of characters is looked at twice.
_FENCE = re.compile(r"```([\d\s]++)```")
_BEFORE_CLOSE = re.compile(r"(\d{16})\s*+</answer>")
_ALONE = re.compile(r"\b(\d{16})\b")


def d1_extract(text: str) -> str:
    """The 16 characters that d1 grades. Source: the protocol of dllm-reasoning/d1."""
    for find in (_fenced, _tagged, _after_close, _before_close, _alone):
        answer = "".join(find(text).split())
        if answer:
            return answer[:NUM_CELLS].ljust(NUM_CELLS, "0")
    return "0" * NUM_CELLS


def _fenced(text: str) -> str:
    """Digits in a code fence inside the answer."""
    opening = text.find(ANSWER_OPEN)
    return _group(_FENCE.search(text, opening) if opening >= 0 else None)


def _tagged(text: str) -> str:
    """From the opening tag to whatever ends the answer; nothing where nothing ends it."""
    opening = text.find(ANSWER_OPEN)
    if opening < 0:
        return ""
    start = opening + len(ANSWER_OPEN)
    end = first_of(text, (*END_TOKENS, ANSWER_CLOSE), start)
    return text[start:end] if end < len(text) else ""


def _after_close(text: str) -> str:
    """Behind the closing tag, up to an end token or the end."""
    close = text.find(ANSWER_CLOSE)
    if close < 0:
        return ""
    start = close + len(ANSWER_CLOSE)
    return text[start : first_of(text, END_TOKENS, start)]


def _before_close(text: str) -> str:
    return _group(_BEFORE_CLOSE.search(text))


def _alone(text: str) -> str:
    return _group(_ALONE.search(text))


def _group(match: re.Match[str] | None) -> str:
    return match.group(1) if match else ""


def cells_correct(puzzle: str, solution: str, answer: str) -> int:
    """Blanks of ``puzzle`` in which ``answer`` equals ``solution``; all have 16 characters."""
    cells = zip(puzzle, solution, answer, strict=True)
    return sum(clue == "0" and right == digit for clue, right, digit in cells)


def strict_extract(text: str) -> str | None:
    """The 16 digits 1-4 in the last answer tag, white space left out; None if it holds others."""
    answer = last_answer(before_end(text))
    digits = "" if answer is None else "".join(answer.split())
    return digits if len(digits) == NUM_CELLS and not set(digits) - set(DIGITS) else None
