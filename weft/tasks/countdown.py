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
_OPERATOR_SHARES = (0.47, 0.47, 0.03, 0.03)


@dataclass(frozen=True)
class Term:
    """An expression as text, and its value."""

    text: str
    value: int

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
    make (``100+30=130 100-30=70``), then what would be needed with the number left over
    (``93+23=116 93-23=70``); a value on both sides is a solution, and ``no`` marks a dead end. Sums
    and differences come first: if any leftover number has such a solution, all have. Products and
    quotients follow. The last line checks the expression: ``93-(100-30)=23 ok``.
    Raises ValueError when the problem has no solution of this kind.
    """
    lines: list[str] = []
    for operators in ("+-", "*/"):
        leftovers = range(NUM_NUMBERS - 1, -1, -1) if operators == "*/" else [NUM_NUMBERS - 1]
        for place in leftovers:
            others = [_number(n) for k, n in enumerate(numbers) if k != place]
            line, solution = _meet(others, _number(numbers[place]), target, operators)
            if solution is not None:
                lines += [line, f"{solution}={target} ok"]
                return "\n".join(lines), solution
            lines.append(f"{line} no")
    raise ValueError(f"solution_trace: {numbers} cannot make {target}")


def _meet(
    others: list[Term], leftover: Term, target: int, operators: str
) -> tuple[str, str | None]:
    """The line of one leftover number, and the expression if the two sides meet."""
    large, small = sorted(others, key=lambda term: -term.value)
    makes = [t for o in "+-*/" if (t := combine(large, small, o)) and _fits(o, operators, t)]
    needs = _needs(leftover, target, operators)
    shown = [f"{term.text}={term.value}" for term in makes]
    shown += [f"{text}={value}" for text, value, _ in needs]
    line = " ".join([f"{leftover.text}:", *shown])
    for term in makes:
        for _, value, finish in needs:
            if term.value == value and (text := _finished(term, leftover, finish, target)):
                return line, text
    return line, None


def _fits(operator: str, operators: str, term: Term) -> bool:
    """Which values of the pair a pass looks at: the second pass keeps the sum and the difference,
    for products with the number left over, and leaves out products that nothing can bring down."""
    return operator in operators if operators == "+-" else term.value <= LARGEST * LARGEST


def _needs(leftover: Term, target: int, operators: str) -> list[tuple[str, int, str]]:
    """``(text, value, finish)``: a pair of that value reaches the target by ``finish``."""
    c = leftover.value
    high, low = max(c, target), min(c, target)
    sums = [(f"{c}+{target}", c + target, "-c"), (f"{high}-{low}", high - low, "+c")]
    if operators == "+-":
        return sums
    quotients = [(f"{target}*{c}", target * c, "/c")]
    if target % c == 0:
        quotients.append((f"{target}/{c}", target // c, "*c"))
    if c % target == 0:
        quotients.append((f"{c}/{target}", c // target, "c/"))
    return sums + quotients


def _finished(pair: Term, leftover: Term, finish: str, target: int) -> str | None:
    """The whole expression, if joining ``pair`` and ``leftover`` by ``finish`` gives ``target``."""
    orders = {
        "-c": [(pair, leftover, "-")],
        "+c": [(pair, leftover, "+"), (leftover, pair, "-"), (pair, leftover, "-")],
        "/c": [(pair, leftover, "/")],
        "*c": [(pair, leftover, "*")],
        "c/": [(leftover, pair, "/")],
    }[finish]
    for left, right, operator in orders:
        term = combine(left, right, operator)
        if term is not None and term.value == target:
            return term.text
    return None
