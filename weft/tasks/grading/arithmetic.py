"""Arithmetic on untrusted text: Python's grammar and precedence, none of its other powers."""

import ast
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

MAX_CHARACTERS = 1000
MAX_DEPTH = 150
_MAX_POWER_BITS = 10_000

Operators = Mapping[type[ast.operator], Callable[[Any, Any], Any]]


def parse(expression: str) -> ast.expr | None:
    """The syntax tree of ``expression``, its constants plain numbers; None if it is not arithmetic.

    Runs of blanks count as one, and then more than ``MAX_CHARACTERS`` is no arithmetic: an
    expression over a few numbers is never that long, and the parser's stack is not unlimited.
    """
    short = re.sub(r"[ \t]+", " ", expression.strip())
    if len(short) > MAX_CHARACTERS:
        return None
    try:
        return ast.parse(short, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def evaluate(
    node: ast.expr, operators: Operators, number: Callable[[int | float], Any], depth: int = 0
) -> Any:
    """Value of the tree under ``operators``, each constant turned into ``number(constant)``.

    Raises ValueError for anything but numbers, signs, brackets and those operators, for a tree
    deeper than ``MAX_DEPTH``, a power too large to compute, and what Python cannot compute, such as
    a division by zero.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"evaluate: wanted at most {MAX_DEPTH} levels")
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return number(value)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
            inner = evaluate(operand, operators, number, depth + 1)
            return -inner if isinstance(sign, ast.USub) else inner
        case ast.BinOp(left=left, op=kind, right=right) if type(kind) in operators:
            first = evaluate(left, operators, number, depth + 1)
            second = evaluate(right, operators, number, depth + 1)
            return _apply(operators[type(kind)], first, second)
    raise ValueError(f"evaluate: wanted arithmetic, got {type(node).__name__}")


def _apply(function: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    try:
        return function(first, second)
    except (ArithmeticError, TypeError) as error:
        raise ValueError(f"evaluate: cannot compute ({error})") from error


def bounded_power(base: Any, exponent: Any) -> Any:
    """``base ** exponent``; OverflowError for a whole number of more than 10,000 bits."""
    is_whole = isinstance(base, int) and isinstance(exponent, int)
    # 0, 1 and -1 stay small under any exponent.
    if is_whole and abs(base) > 1 and exponent * base.bit_length() > _MAX_POWER_BITS:
        raise OverflowError("the power is too large")
    return base**exponent


EXACT_OPERATORS: Operators = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
"""Addition, subtraction, multiplication and division."""

PYTHON_OPERATORS: Operators = {
    **EXACT_OPERATORS,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: bounded_power,
}
"""The operators that can be written with the characters ``+-*/``."""
