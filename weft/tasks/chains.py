"""Chains of generated text: two numbers joined, and their result joined with a third."""

from dataclasses import dataclass

import numpy as np

from weft.tasks.arithmetic import is_held_out, is_small_product, operands
from weft.tasks.base import Problem


@dataclass(frozen=True)
class Chain:
    """A pair's result, joined with a third number: ``100-30=70 93+70=163 93-70=23``."""

    numbers: tuple[int, int, int]
    pair: str
    leftover: int
    equations: tuple[str, ...]
    outcomes: dict[int, str]
    """Values, and the expression of all three numbers that has it: ``23``, ``93-(100-30)``."""

    @property
    def text(self) -> str:
        """The equations, one behind the other."""
        return " ".join(self.equations)

    def problem(self, value: int) -> Problem:
        """The Countdown problem that asks for ``value``."""
        return Problem("countdown", "", {"numbers": list(self.numbers), "target": value})

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of all outcomes."""
        return tuple(self.problem(value) for value in self.outcomes)


def chain_of(numbers: tuple[int, int, int], operator: str, outer: str) -> Chain | None:
    """The chain of the first two numbers; None if an equation of it is held out or too large.

    Equations have the larger operand first; of a sum's expression the pair is first.
    """
    a, b, c = numbers
    a, b = max(a, b), min(a, b)
    value = _result(a, operator, b)
    if value is None:
        return None
    large, small = max(value, c), min(value, c)
    equations = [f"{a}{operator}{b}={value}"]
    outcomes: dict[int, str] = {}
    for sign in outer:
        result = _result(large, sign, small)
        if result is None:
            continue
        pair = f"({a}{operator}{b})"
        left, right = (pair, str(c)) if sign == "+" or value >= c else (str(c), pair)
        equations.append(f"{large}{sign}{small}={result}")
        outcomes.setdefault(result, f"{left}{sign}{right}")
    if not outcomes:
        return None
    return Chain(numbers, f"{a}{operator}{b}", c, tuple(equations), outcomes)


def _result(a: int, operator: str, b: int) -> int | None:
    """``a operator b`` unless it is held out, negative, not whole or a large product."""
    if is_held_out(a, operator, b) or (operator == "-" and a < b):
        return None
    if operator == "*" and not is_small_product(a, b):
        return None
    if operator == "/":
        is_known = b > 0 and a % b == 0 and is_small_product(b, a // b)
        return a // b if is_known else None
    return {"+": a + b, "-": a - b, "*": a * b}[operator]


def some_chain(rng: np.random.Generator) -> Chain:
    """A chain of random numbers, mostly of sums and differences."""
    while True:
        operator = str(rng.choice(list("+-*/"), p=(0.4, 0.4, 0.15, 0.05)))
        a, b, c = random_numbers(rng, 3)
        if operator in "*/":
            a, b = operands("*", rng)
            a = a * b if operator == "/" else a
        outer = "+-" if rng.random() < 0.85 else "*/"
        chain = chain_of((a, b, c), operator, outer)
        if chain is not None:
            return chain


def some_outcome(rng: np.random.Generator) -> tuple[list[Chain], int, str]:
    """One or two chains, mostly of the same numbers, and a value of theirs with its expression."""
    chains = [some_chain(rng)]
    if rng.random() < 0.75:
        other = "-" if "+" in chains[0].pair else "+"
        twin = chain_of(chains[0].numbers, other, "+-") if rng.random() < 0.8 else None
        chains.append(twin or some_chain(rng))
    order = [chains[k] for k in rng.permutation(len(chains)).tolist()]
    chosen = order[int(rng.integers(len(order)))]
    value = int(rng.choice(list(chosen.outcomes)))
    # The first that has the value, if several have.
    return order, value, next(c.outcomes[value] for c in order if value in c.outcomes)


def further_chains(chains: list[Chain], count: int, rng: np.random.Generator) -> list[Chain]:
    """Up to ``count`` other sums and differences of the first chain's numbers, joined likewise."""
    known = {chain.pair for chain in chains}
    a, b, c = chains[0].numbers
    made = [
        chain_of(numbers, operator, "+-")
        for numbers in ((a, b, c), (a, c, b), (b, c, a))
        for operator in "+-"
    ]
    found = {c.pair: c for c in made if c is not None and c.pair not in known}
    others = list(found.values())
    return [others[k] for k in rng.permutation(len(others))[:count].tolist()]


def random_numbers(rng: np.random.Generator, count: int) -> list[int]:
    """``count`` numbers from 1 to 100."""
    return [int(n) for n in rng.integers(1, 101, size=count)]
