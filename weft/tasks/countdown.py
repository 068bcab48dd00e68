"""Countdown with three numbers: problems, a solver, and the trace of its search.

A problem is three numbers from 1 to 100 and a target from 1 to 100 that an expression over all of
them reaches with ``+ - * /`` and brackets, every intermediate value a whole number not below 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np

NUM_NUMBERS = 3
LARGEST = 100
MAX_TRACE_CHARACTERS = 110
_OPERATOR_SHARES = (0.45, 0.45, 0.05, 0.05)


@dataclass(frozen=True)
class Term:
    """An expression as text, and its value."""

    text: str
    value: int

    @property
    def equation(self) -> str:
        """``text=value``."""
        return f"{self.text}={self.value}"

    @property
    def operand(self) -> str:
        """The text, in brackets unless it is a number."""
        return self.text if self.text.isdigit() else f"({self.text})"


def combine(first: Term, second: Term, operator: str) -> Term | None:
    """``first operator second``; None where the value is negative or not whole."""
    a, b = first.value, second.value
    if operator == "-" and a < b:
        return None
    if operator == "/" and (b == 0 or a % b):
        return None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[operator]
    return Term(f"{first.operand}{operator}{second.operand}", value)


def expressions(numbers: tuple[int, ...]) -> Iterator[Term]:
    """Every way to combine three numbers: a pair, then it and the one left over, either way."""
    for a, b, c in permutations(numbers):
        for inner in "+-*/":
            pair = combine(_number(a), _number(b), inner)
            if pair is None:
                continue
            for outer in "+-*/":
                for left, right in ((pair, _number(c)), (_number(c), pair)):
                    term = combine(left, right, outer)
                    if term is not None:
                        yield term


def _number(value: int) -> Term:
    return Term(str(value), value)


def solve(numbers: tuple[int, ...], target: int) -> str | None:
    """An expression over all ``numbers`` that equals ``target``, or None."""
    return next((term.text for term in expressions(numbers) if term.value == target), None)


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
    """``(trace, expression)`` of a search that meets in the middle.

    One number is left over at a time, the last first. A line names it, then what the other two can
    make (``93: 100+30=130 100-30=70``); the next one names the target, then what would be needed
    with the number left over (``23: 93+23=116 93-23=70``). A value on both lines is a solution, and
    ``no`` marks a dead end. Sums and differences come first: if any leftover number has such a
    solution, all have. Products and quotients follow, the large products last. The last line checks
    the expression: ``93-(100-30)=23 ok``. Raises ValueError when the problem has no solution of
    this kind.
    """
    lines: list[str] = []
    for sides in (_sums_alone, _small_products, _large_products):
        for place in reversed(range(NUM_NUMBERS)):
            others = [_number(n) for k, n in enumerate(numbers) if k != place]
            leftover = _number(numbers[place])
            makes, needs = sides(others, leftover, target)
            if not (makes and needs):
                continue
            lines += [_line(numbers[place], makes), _line(target, needs)]
            solution = _meeting(makes, needs, leftover, target)
            if solution is not None:
                return "\n".join([*lines, f"{solution}={target} ok"]), solution
            lines[-1] += " no"
            if sides is _sums_alone:
                break  # the other leftovers would fail as well
    raise ValueError(f"solution_trace: {numbers} cannot make {target}")


def _line(label: int, terms: list[Term]) -> str:
    return " ".join([f"{label}:", *(term.equation for term in terms)])


_Sides = tuple[list[Term], list[Term]]
"""What a pair can make, and what the number left over needs of it."""


def _sums_alone(others: list[Term], leftover: Term, target: int) -> _Sides:
    return _made(others, "+-"), _made([leftover, _number(target)], "+-")


def _small_products(others: list[Term], leftover: Term, target: int) -> _Sides:
    """Products and quotients that a sum can still bring to the target, and sums and differences
    that a factor can."""
    c, goal = leftover, _number(target)
    makes = [t for t in _made(others, "*/") if t.value <= 2 * LARGEST]
    needs = _made([c, goal], "+-") if makes else []
    factors = [t for t in _made([c, goal], "*/") if t.value <= 2 * LARGEST]
    if factors:
        makes = _made(others, "+-") + makes
    return makes, needs + factors


def _large_products(others: list[Term], leftover: Term, target: int) -> _Sides:
    return _made(others, "*"), _made([leftover, _number(target)], "*")


def _made(terms: list[Term], operators: str) -> list[Term]:
    """The terms that ``operators`` make of two, the larger first."""
    large, small = sorted(terms, key=lambda term: -term.value)
    made = (combine(large, small, operator) for operator in operators)
    return [term for term in made if term is not None]


def _meeting(makes: list[Term], needs: list[Term], leftover: Term, target: int) -> str | None:
    """The expression of the first value on both sides that closes to the target."""
    for pair in makes:
        if pair.value not in {need.value for need in needs}:
            continue
        for left, right in ((pair, leftover), (leftover, pair)):
            for operator in "+-*/":
                term = combine(left, right, operator)
                if term is not None and term.value == target:
                    return term.text
    return None
