"""Sums, differences and small products of generated text, and those that are kept out of it."""

import hashlib
import re

import numpy as np

_HELD_OUT_SHARE = 20
"""One pair in so many is never part of any generated text."""
_LARGEST_SUM_OPERAND = 200
_LARGEST_TABLE = 12
_OPERATOR_SHARES = (0.2, 0.4, 0.4)
"""Of ``+ - *``: products are few, but each has to be learned by itself."""


def is_held_out(a: int, operator: str, b: int) -> bool:
    """Whether the equation of ``a operator b`` is kept out of all text, one in twenty.

    Sums are held out with their mirror image, which would give them away. Products are not, and
    squares never: an entry of a times table that is never seen cannot be deduced from the rest.
    """
    if operator == "*" and a == b:
        return False
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
        operator = str(rng.choice(list("+-*"), p=_OPERATOR_SHARES))
        a, b = operands(operator, rng)
        if is_held_out(a, operator, b) == held_out:
            value = {"+": a + b, "-": a - b, "*": a * b}[operator]
            return f"{a}{operator}{b}", str(value)


def is_small_product(a: int, b: int) -> bool:
    """Whether ``a * b`` is in the times tables to 12, or a one-digit multiple of at most 100."""
    return max(a, b) <= _LARGEST_TABLE or (min(a, b) <= 9 and a * b <= 100)


def operands(operator: str, rng: np.random.Generator) -> tuple[int, int]:
    """Two numbers for ``+``, ``-`` (the larger first) or a small product."""
    if operator == "*":
        # One table after the other: drawn as pairs, most would have a factor 0 or 1.
        a = int(rng.integers(0, _LARGEST_TABLE + 1))
        b = int(rng.choice([n for n in range(100) if is_small_product(a, n)]))
        return (a, b) if rng.random() < 0.5 else (b, a)
    limits = [_LARGEST_SUM_OPERAND if rng.random() < 0.2 else 99, 99]
    # One-digit operands are rare among uniform ones, and what carries are made of.
    a, b = (int(rng.integers(0, 10 if rng.random() < 0.15 else limit + 1)) for limit in limits)
    if operator == "-" or rng.random() < 0.5:
        a, b = max(a, b), min(a, b)
    return a, b


def aligned(text: str) -> str:
    """``text`` with its numbers right-aligned to three places: ``"47+5"`` -> ``" 47+  5"``."""
    return re.sub(r"\d+", lambda number: f"{number[0]:>3}", text)
