"""Countdown with three numbers: problems, a solver, and the trace of its search.

A problem is three numbers from 1 to 100 and a target from 1 to 100 that an expression over all of
them reaches with ``+ - * /`` and brackets, every intermediate value a whole number not below 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

NUM_NUMBERS = 3
LARGEST = 100
MAX_TRACE_CHARACTERS = 143
_OPERATOR_SHARES = (0.45, 0.45, 0.05, 0.05)
_STAGES = (
    ("+-", "+-", 2 * LARGEST),
    ("*/", "+-", 2 * LARGEST),
    ("+-", "*/", 2 * LARGEST),
    ("*/", "*/", LARGEST**2),
)
"""Of a search: operators of the pair, operators after it, largest result of the pair."""
_LINES_OF_SUMS = 2


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


def mark(value: int, target: int) -> str:
    """``ok`` where ``value`` is the target, else ``no``."""
    return "ok" if value == target else "no"


def _number(value: int) -> Term:
    return Term(f"{value:>3}", value)


def generate_problem(rng: np.random.Generator) -> tuple[tuple[int, ...], int]:
    """``(numbers, target)``: a random expression whose value lies in 1..100, its numbers shuffled.

    About nine in ten need additions and subtractions alone, as in d1's test file. Only problems
    whose trace has at most ``MAX_TRACE_CHARACTERS`` characters.
    """
    while True:
        inner, outer = (str(o) for o in rng.choice(list("+-*/"), size=2, p=_OPERATOR_SHARES))
        numbers, target = _numbers_for(inner, outer, rng)
        if len(solution_trace(numbers, target)[0]) <= MAX_TRACE_CHARACTERS:
            return numbers, target


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

    A line is a guess: what a pair makes, and what that makes with the number left over, the larger
    operand first, each checked against the target:
    ``100- 30= 70  93+ 70=163 no  93- 70= 23 ok``. The sum and the difference of one pair come first
    and are always both there: what sums and differences reach from one pair, they reach from each.
    Where they are a dead end, products and quotients follow, pair by pair up to the first that
    leads to the target, the large products last. The last line is the expression:
    `` 23= 93-(100- 30)``. Raises ValueError when the problem has no solution.
    """
    lines: list[str] = []
    solution = None
    for pair, leftover, operators in _guesses(numbers):
        if len(lines) >= _LINES_OF_SUMS and solution:
            break
        outcomes = _outcomes(_number(pair.value), leftover, operators)
        checked = [f"{term.equation} {mark(term.value, target)}" for term in outcomes]
        lines.append(" ".join([pair.equation, *checked]))
        if not solution and any(outcome.value == target for outcome in outcomes):
            whole = _made([pair, leftover], operators)
            solution = next(term.text for term in whole if term.value == target)
    if solution is None:
        raise ValueError(f"solution_trace: {numbers} cannot make {target}")
    return "\n".join([*lines, f"{target:>3}={solution}"]), solution


def _guesses(numbers: tuple[int, ...]) -> Iterator[tuple[Term, Term, str]]:
    """Each pair's result, the number left over, and the operators to join the two with."""
    for inner, outer, largest in _STAGES:
        for place in reversed(range(NUM_NUMBERS)):
            others = [_number(n) for k, n in enumerate(numbers) if k != place]
            for pair in _made(others, inner):
                if pair.value <= largest and _outcomes(pair, _number(numbers[place]), outer):
                    yield pair, _number(numbers[place]), outer
            if (inner, outer) == ("+-", "+-"):
                break  # another pair would fail as well


def _outcomes(pair: Term, leftover: Term, operators: str) -> list[Term]:
    """What the two make, less what is too large to lead to a target; sums may be."""
    made = _made([pair, leftover], operators)
    return [term for term in made if "+" in operators or term.value <= 2 * LARGEST]


def _made(terms: list[Term], operators: str) -> list[Term]:
    """The terms that ``operators`` make of two, the larger first."""
    large, small = sorted(terms, key=lambda term: -term.value)
    made = (combine(large, small, operator) for operator in operators)
    return [term for term in made if term is not None]
