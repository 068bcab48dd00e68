"""Verdicts on Countdown answers: d1's published rules, and exact ones."""

import ast
import re
from collections.abc import Sequence
from fractions import Fraction

from weft.tasks.grading.arithmetic import EXACT_OPERATORS, PYTHON_OPERATORS, evaluate, parse
from weft.tasks.grading.extraction import (
    before_end,
    d1_box,
    first_answer,
    last_answer,
    last_balanced_box,
)

_D1_TOLERANCE = 1e-5
_D1_OPERATORS = {"\\div": "/", "\\times": "*", "\\cdot": "*"}
_D1_EXPRESSION = frozenset("0123456789+-*/() ")
_D1_NUMBER = frozenset("0123456789. ")
_MAX_DIGITS = 40


def d1_extract(text: str) -> str:
    """The expression that d1 grades. Source: the protocol of dllm-reasoning/d1."""
    found = d1_box(text)
    if found is None:
        found = first_answer(text)
    if found is None:
        found = text
    for latex, plain in _D1_OPERATORS.items():
        found = found.replace(latex, plain)
    left = _left_of_equation(found)
    return found if left is None else left.strip()


def _left_of_equation(text: str) -> str | None:
    """The expression of the first ``expression = number`` in ``text``.

    Looks back from each ``=``, which no expression holds, so that no character is seen twice.
    """
    place = text.find("=")
    while place >= 0:
        start = place
        while start > 0 and text[start - 1] in _D1_EXPRESSION:
            start -= 1
        if start < place and text[place + 1 : place + 2] in _D1_NUMBER:
            return text[start:place]
        place = text.find("=", place + 1)
    return None


def d1_is_correct(text: str, numbers: Sequence[int], target: int) -> bool:
    """d1's verdict: each number once, Python's arithmetic, within 1e-5 of the target.

    Wrong, too, is what d1 would fail on or never finish: towers of powers, and expressions beyond
    the bounds of ``arithmetic``.
    """
    expression = d1_extract(text)
    if _integers(expression) != sorted(numbers):
        return False
    if not re.fullmatch(r"[\d+\-*/().\s]+", expression):
        return False
    tree = parse(expression)
    if tree is None:
        return False
    try:
        return bool(abs(evaluate(tree, PYTHON_OPERATORS, _same) - target) < _D1_TOLERANCE)
    except (ValueError, OverflowError):
        return False


def _same(value: int | float) -> int | float:
    return value


def _integers(expression: str) -> list[int] | None:
    """The whole numbers in ``expression``, sorted; None where one is too long for a number."""
    digits = re.findall(r"\d+", expression)
    if any(len(run) > _MAX_DIGITS for run in digits):
        return None
    return sorted(int(run) for run in digits)


def strict_extract(text: str) -> str | None:
    """The last balanced box before the end of the text, else the last answer tag, else None."""
    text = before_end(text)
    box = last_balanced_box(text)
    return last_answer(text) if box is None else box


def strict_is_correct(expression: str | None, numbers: Sequence[int], target: int) -> bool:
    """Whether ``expression`` is exactly ``target``, with every number once and ``+ - * / ( )``."""
    if expression is None or not re.fullmatch(r"[0-9+\-*/() ]+", expression):
        return False
    tree = parse(expression)
    if tree is None or _constants(tree) != sorted(numbers):
        return False
    try:
        return bool(evaluate(tree, EXACT_OPERATORS, Fraction) == target)
    except ValueError:
        return False


def _constants(tree: ast.expr) -> list[int]:
    return sorted(
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    )
