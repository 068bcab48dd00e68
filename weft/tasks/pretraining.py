"""Generated text that a small denoiser is pre-trained on: arithmetic, and Sudoku grids to complete.

It teaches skills, not tasks: arithmetic, what a grid's rows leave possible, how to write it down.
No prompt, search or answer format of a task occurs in it. A document that contains a problem which
a task could ask says so, and those of evaluation sets can be kept out.
"""

import hashlib
import itertools
import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from weft.tasks import sudoku
from weft.tasks.base import Problem

_HELD_OUT_SHARE = 20
"""One pair in so many is never part of any generated text."""
_LARGEST_SUM_OPERAND = 200
_LARGEST_TABLE = 12
_OPERATOR_SHARES = (0.34, 0.34, 0.32)
"""Of ``+ - *``: products are few, but each has to be learned by itself."""
_LIST_CHARACTERS = 60
_FEW_BLANKS = 6

Topic = Literal["all", "arithmetic"]


@dataclass(frozen=True)
class Document:
    """A text, and how much of its beginning is only ever given, never masked."""

    given: str
    text: str
    problems: tuple[Problem, ...] = ()
    """The problems of tasks whose grid, or whose numbers and target, the text contains."""


def pretraining_document(*, seed: int, index: int, topic: Topic = "all") -> Document:
    """Document number ``index`` of the text with this ``seed``; no other document is made.

    ``all``: 42 % equations, 8 % with brackets, 4 % lists of them, 16 % worksheets, 5 % pairs of
    equal results, 12 % candidates of a grid's rows, and 13 % grids with one to six blanks followed
    by their completion. ``arithmetic``: 40 % equations, 10 % with brackets, 50 % worksheets.

    Mostly the beginning is given: where operands are masked too, few results are determined, and
    arithmetic is not learned in minutes. Half begin with other equations: where everything stands
    at a fixed place, places are learned instead of what stands there.
    """
    if topic == "all":
        rng = np.random.default_rng([seed, index])
        document = _document(rng)
    else:
        # A key beside the numbers: after them, 1 would be the upper half of a large index.
        rng = np.random.default_rng(np.random.SeedSequence([seed, index], spawn_key=(1,)))
        document = _arithmetic(rng)
    if not document.given:
        return document
    return replace(document, given=_remains(rng) + document.given)


def _document(rng: np.random.Generator) -> Document:
    kind = rng.random()
    if kind < 0.42:
        return _single_equation(rng)
    if kind < 0.50:
        return _bracketed(rng)
    if kind < 0.54:
        return Document("", _equations(rng))
    if kind < 0.70:
        return _worksheet(_numbers(rng, 3))
    if kind < 0.75:
        return _equal_pair(rng)
    if kind < 0.87:
        return _row_sheet(rng)
    puzzle, solution = sudoku.generate_puzzle(rng, _few(rng), unique=False)
    problem = Problem("sudoku", "", {"puzzle": puzzle})
    given, text = f"{puzzle}=", solution
    if rng.random() < 0.2:
        given, text = "", given + text
    return Document(given, text, (problem,))


def _arithmetic(rng: np.random.Generator) -> Document:
    kind = rng.random()
    if kind < 0.4:
        return _single_equation(rng)
    if kind < 0.5:
        return _bracketed(rng)
    if kind < 0.6:
        return _worksheet(list(_operands("*", rng)))
    return _worksheet(_numbers(rng, 2 if kind < 0.8 else 3))


def _single_equation(rng: np.random.Generator) -> Document:
    left, right = equation(rng)
    return Document(f"{left}=", right)


def _numbers(rng: np.random.Generator, count: int) -> list[int]:
    return [int(n) for n in rng.integers(1, 101, size=count)]


def _few(rng: np.random.Generator) -> int:
    return int(rng.integers(1, _FEW_BLANKS + 1))


def _remains(rng: np.random.Generator) -> str:
    """Nothing, or up to four equations and a line break."""
    if rng.random() < 0.5:
        return ""
    return " ".join(_equations(rng).split(" ")[: int(rng.integers(1, 5))]) + "\n"


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
        a, b = _operands(operator, rng)
        if is_held_out(a, operator, b) == held_out:
            value = {"+": a + b, "-": a - b, "*": a * b}[operator]
            return f"{a}{operator}{b}", str(value)


def is_small_product(a: int, b: int) -> bool:
    """Whether ``a * b`` is in the times tables to 12, or a one-digit multiple of at most 100."""
    return max(a, b) <= _LARGEST_TABLE or (min(a, b) <= 9 and a * b <= 100)


def _operands(operator: str, rng: np.random.Generator) -> tuple[int, int]:
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


def _equations(rng: np.random.Generator) -> str:
    """Equations, half of them followed by what they imply: a difference, or the mirror image."""
    parts: list[str] = []
    while sum(map(len, parts)) + len(parts) < _LIST_CHARACTERS:
        left, right = equation(rng)
        parts.append(f"{left}={right}")
        if rng.random() < 0.5:
            parts.append(_implied(left))
    return " ".join(part for part in parts if part)


def _implied(left: str) -> str:
    if "+" in left:
        small, large = sorted(int(n) for n in left.split("+"))
        return "" if is_held_out(large, "-", small) else f"{large}-{small}={large - small}"
    if "*" in left:
        a, b = (int(n) for n in left.split("*"))
        return "" if is_held_out(b, "*", a) else f"{b}*{a}={a * b}"
    return ""


def _bracketed(rng: np.random.Generator) -> Document:
    """A sum or difference of three numbers, two of them in brackets: ``93-(100-30)=23``."""
    while True:
        a, b, c = (int(n) for n in rng.integers(1, 101, size=3))
        inner, outer = (str(operator) for operator in rng.choice(list("+-"), size=2))
        pair = a + b if inner == "+" else a - b
        sides, (left, right) = [f"({a}{inner}{b})", str(c)], (pair, c)
        if rng.random() < 0.5:
            sides, (left, right) = sides[::-1], (c, pair)
        value = left + right if outer == "+" else left - right
        if min(pair, value) < 0 or is_held_out(a, inner, b) or is_held_out(left, outer, right):
            continue
        problem = Problem("countdown", "", {"numbers": [a, b, c], "target": value})
        return Document(f"{sides[0]}{outer}{sides[1]}=", str(value), (problem,))


def _worksheet(numbers: list[int]) -> Document:
    """Numbers, then the sum and the difference of each pair: copying, ordering, computing.

    Of two numbers with a small product, that too.
    """
    parts = []
    for first, second in itertools.combinations(numbers, 2):
        a, b = max(first, second), min(first, second)
        parts += [f"{a}+{b}={a + b}"] if not is_held_out(a, "+", b) else []
        parts += [f"{a}-{b}={a - b}"] if not is_held_out(a, "-", b) else []
    if len(numbers) == 2 and is_small_product(a, b) and not is_held_out(a, "*", b):
        parts.append(f"{a}*{b}={a * b}")
    # Of two numbers, everything may be held out.
    text = " ".join(parts) or "-"
    return Document(" ".join(map(str, numbers)) + ": ", text)


def _equal_pair(rng: np.random.Generator) -> Document:
    """Equations in any order, two with the same result; then those two: ``9+4=20-7``."""
    while True:
        equations = [equation(rng) for _ in range(3)]
        left, value = equations[0]
        twin = _left_side_of(int(value), rng)
        if twin != left and value not in (other for _, other in equations[1:]):
            break
    lefts = rng.permutation([twin, *(side for side, _ in equations)]).tolist()
    values = dict(equations) | {twin: value}
    listed = " ".join(f"{side}={values[side]}" for side in lefts)
    pair = "=".join(side for side in lefts if side in (left, twin))
    return Document(f"{listed}\n", pair, _readings(pair))


def _readings(pair: str) -> tuple[Problem, ...]:
    """``40-31=78-69`` solves each of its numbers with the other three."""
    numbers = [int(n) for n in re.findall(r"\d+", pair)]
    return tuple(
        Problem("countdown", "", {"numbers": [*numbers[:k], *numbers[k + 1 :]], "target": target})
        for k, target in enumerate(numbers)
    )


def _left_side_of(value: int, rng: np.random.Generator) -> str:
    """A sum or a difference that has this value and is not held out."""
    while True:
        b = int(rng.integers(0, 100))
        if rng.random() < 0.5 and not is_held_out(value + b, "-", b):
            return f"{value + b}-{b}"
        if b <= value and not is_held_out(value - b, "+", b):
            return f"{value - b}+{b}"


def _row_sheet(rng: np.random.Generator) -> Document:
    """Rows of a grid in any order, each with its candidates; then perhaps the grid's completion.

    Grids with more than few blanks are never completed.
    """
    is_hard = rng.random() < 0.5
    num_blanks = _few(rng) + (4 if is_hard else 0)
    puzzle, solution = sudoku.generate_puzzle(rng, num_blanks, unique=False)
    problem = Problem("sudoku", "", {"puzzle": puzzle})
    lines = [
        sudoku.row_line(puzzle, row, sudoku.row_candidates(puzzle, row))
        for row in rng.permutation(sudoku.SIZE).tolist()
    ]
    if rng.random() < 0.4:  # all is given but the last row's candidates
        shown = lines[: int(rng.integers(1, len(lines) + 1))]
        given, _, text = "\n".join(shown).rpartition(">")
        return Document(f"{puzzle}\n{given}>", text, (problem,))
    if not is_hard:
        lines.append(f"={solution}")
    return Document(f"{puzzle}\n", "\n".join(lines), (problem,))
