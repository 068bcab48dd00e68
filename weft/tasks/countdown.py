"""Countdown with three numbers: problems, a solver, and the trace of its search.

A problem is three numbers from 1 to 100 and a target from 1 to 100 that an expression over all of
them reaches with ``+ - * /`` and brackets, every intermediate value a whole number not below 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NUM_NUMBERS = 3
LARGEST = 100
_OPERATOR_SHARES = (0.45, 0.45, 0.05, 0.05)
_STAGES = (("+-", "+-"), ("*/", "+-"), ("+-", "*/"), ("*/", "*/"))
"""Of a search: operators of the pair, and operators after it."""


@dataclass(frozen=True)
class Term:
    """An expression as text, its numbers right-aligned to three places, and its value.

    A denoiser fills a canvas in any order: aligned, a line's places do not depend on results that
    are not there yet.
    """

    text: str
    value: int

    @property
    def equation(self) -> str:
        """``text=value``."""
        return f"{self.text}={self.value:>3}"

    @property
    def operand(self) -> str:
        """The text, in brackets unless it is a number."""
        return self.text if self.text.strip().isdigit() else f"({self.text})"


def combine(first: Term, second: Term, operator: str) -> Term | None:
    """``first operator second``; None where the value is negative or not whole."""
    a, b = first.value, second.value
    if operator == "-" and a < b:
        return None
    if operator == "/" and (b == 0 or a % b):
        return None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
    return Term(f"{first.operand}{operator}{second.operand}", value)


def _number(value: int) -> Term:
    return Term(f"{value:>3}", value)


def generate_problem(rng: np.random.Generator) -> tuple[tuple[int, ...], int]:
    """``(numbers, target)``: a random expression whose value lies in 1..100, its numbers shuffled.

    About nine in ten need additions and subtractions alone, as in d1's test file.
    """
    inner, outer = (str(o) for o in rng.choice(list("+-*/"), size=2, p=_OPERATOR_SHARES))
    return _numbers_for(inner, outer, rng)


def _numbers_for(inner: str, outer: str, rng: np.random.Generator) -> tuple[tuple[int, ...], int]:
    while True:
        a, b, c = (int(n) for n in rng.integers(1, LARGEST + 1, size=NUM_NUMBERS))
        pair = combine(_number(a), _number(b), inner)
        left, right = (pair, _number(c)) if rng.integers(2) else (_number(c), pair)
        term = combine(left, right, outer) if left and right else None
        if term is not None and 1 <= term.value <= LARGEST:
            return tuple(int(n) for n in rng.permutation([a, b, c])), term.value


def solution_trace(numbers: tuple[int, ...], target: int) -> tuple[str, str]:
    """``(trace, expression)`` of a search that joins two numbers and then the third.

    Two lines are guesses: the sum and the difference of the two largest numbers, and what each
    makes with the smallest, the larger operand first:
    `` 93- 81= 12  39+ 12= 51  39- 12= 27``. What sums and differences reach from one pair, they
    reach from each, so both lines may be a dead end only where products or quotients are needed.
    Those are too many for a canvas: only the one that leads to the target is written, in the last
    line, which is the expression and its value: `` 27= 39-( 93- 81)``.

    Traces differ in digits and signs, and the rarer ones in where the brackets stand, not in
    length or lines: a denoiser that fills a canvas in any order decides on those before it has
    results that they could depend on. Raises ValueError when the problem has no solution.
    """
    large, middle, small = (_number(n) for n in sorted(numbers, reverse=True))
    expressions = _expressions(large, middle, small)
    solution = next((term for term in expressions if term.value == target), None)
    if solution is None:
        raise ValueError(f"solution_trace: {numbers} cannot make {target}")
    lines = []
    for pair in _made(large, middle, "+-"):
        outcomes = _made(_number(pair.value), small, "+-")
        lines.append(" ".join(term.equation for term in [pair, *outcomes]))
    return "\n".join([*lines, f"{target:>3}={solution.text}"]), solution.text


def _expressions(large: Term, middle: Term, small: Term) -> Iterator[Term]:
    """All three joined, in the order of the search; of a sum, the pair stands first."""
    choices = ((large, middle, small), (large, small, middle), (middle, small, large))
    for inner, outer in _STAGES:
        for first, second, leftover in choices:
            for pair in _made(first, second, inner):
                for operator in outer:
                    sides = (pair, leftover) if operator == "+" else _larger_first(pair, leftover)
                    term = combine(*sides, operator)
                    if term is not None:
                        yield term


def _larger_first(first: Term, second: Term) -> tuple[Term, Term]:
    return (first, second) if first.value >= second.value else (second, first)


def _made(first: Term, second: Term, operators: str) -> list[Term]:
    """The terms that ``operators`` make of two, the larger first."""
    made = (combine(*_larger_first(first, second), operator) for operator in operators)
    return [term for term in made if term is not None]
