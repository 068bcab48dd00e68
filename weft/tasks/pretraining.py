"""Generated text that a small denoiser is pre-trained on: arithmetic, and Sudoku grids to complete.

It teaches skills, not tasks: no prompt, trace or answer format of a task occurs in it.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from weft.tasks import sudoku

_HELD_OUT_SHARE = 20
"""One pair in so many is never part of any generated text."""
_LARGEST_SUM_OPERAND = 200
_LIST_CHARACTERS = 60
_FEW_BLANKS = 6


@dataclass(frozen=True)
class Document:
    """A text, and how much of its beginning is only ever given, never masked."""

    given: str
    text: str


def pretraining_document(*, seed: int, index: int) -> Document:
    """Document number ``index`` of the text with this ``seed``; no other document is made.

    80 % are single equations, most with the left side given, 8 % lists of equations, and 12 % grids
    with one to six blanks followed by their completion. Given left sides are what makes arithmetic
    learnable in minutes: where operands are masked too, few results are determined.
    """
    rng = np.random.default_rng([seed, index])
    kind = rng.random()
    if kind < 0.80:
        left, right = equation(rng)
        is_given = kind < 0.75
        return Document(f"{left}=", right) if is_given else Document("", f"{left}={right}")
    if kind < 0.88:
        return Document("", _equations(rng))
    puzzle, solution = sudoku.generate_puzzle(
        rng, int(rng.integers(1, _FEW_BLANKS + 1)), unique=False
    )
    return Document("", f"{puzzle}={solution}")


def is_held_out(a: int, operator: str, b: int) -> bool:
    """Whether the equation of ``a operator b`` is kept out of all text, one in twenty.

    Sums are held out with their mirror image, which would give them away. Products are not: a
    times table that is never seen cannot be deduced from the rest of it.
    """
    if operator == "+":
        a, b = sorted((a, b))
    digest = hashlib.sha256(f"{a}{operator}{b}".encode()).digest()
    if operator == "*" and a > b and is_held_out(b, operator, a):
        return False
    return digest[0] * 256 + digest[1] < 65536 // _HELD_OUT_SHARE


def equation(rng: np.random.Generator, *, held_out: bool = False) -> tuple[str, str]:
    """``("47+85", "132")``: a sum, a difference not below 0 or a small product.

    Operands of sums and differences are mostly below 100; factors give at most 144 or 100.
    """
    while True:
        operator = str(rng.choice(list("+-*"), p=(0.4, 0.4, 0.2)))
        a, b = _operands(operator, rng)
        if is_held_out(a, operator, b) == held_out:
            value = {"+": a + b, "-": a - b, "*": a * b}[operator]
            return f"{a}{operator}{b}", str(value)


def is_small_product(a: int, b: int) -> bool:
    """Whether ``a * b`` is in the times tables to 12, or a one-digit multiple of at most 100."""
    return max(a, b) <= 12 or (min(a, b) <= 9 and a * b <= 100)


def _operands(operator: str, rng: np.random.Generator) -> tuple[int, int]:
    if operator == "*":
        while True:
            a, b = (int(n) for n in rng.integers(0, 100, size=2))
            if is_small_product(a, b):
                return a, b
    limits = [_LARGEST_SUM_OPERAND if rng.random() < 0.2 else 99, 99]
    # One-digit operands are rare among uniform ones, and what carries are made of.
    a, b = (int(rng.integers(0, 10 if rng.random() < 0.15 else limit + 1)) for limit in limits)
    if operator == "-" or rng.random() < 0.5:
        a, b = max(a, b), min(a, b)
    return a, b


def _equations(rng: np.random.Generator) -> str:
    parts: list[str] = []
    while sum(map(len, parts)) + len(parts) < _LIST_CHARACTERS:
        left, right = equation(rng)
        parts.append(f"{left}={right}")
        if rng.random() < 0.5 and "+" in left:
            parts.append(_difference_of(left))
    return " ".join(part for part in parts if part)


def _difference_of(left: str) -> str:
    """The difference of the operands of the sum ``left``, unless it is held out."""
    small, large = sorted(int(n) for n in left.split("+"))
    return "" if is_held_out(large, "-", small) else f"{large}-{small}={large - small}"
