"""Generated text that a small denoiser is pre-trained on: arithmetic, and Sudoku grids to complete.

It teaches skills, not tasks: arithmetic in several steps, what a grid's rows leave possible, how to
write it down, and to answer in the form of a chat, at length. No prompt of a task occurs in it, and
nothing has to be searched: what leads to a value is named, and grids are filled from their
candidates. A document that contains a problem which a task could ask says so, and those of
evaluation sets can be kept out.
"""

import itertools
import re
from dataclasses import dataclass, replace

import numpy as np

from weft.tasks import sudoku
from weft.tasks.arithmetic import aligned, equation, is_held_out, is_small_product, operands
from weft.tasks.base import Problem
from weft.tasks.chains import Chain, further_chains, random_numbers, some_chain, some_outcome

_LIST_CHARACTERS = 60
_FEW_BLANKS = 6
_MOST_TRIALS = 4
_CUT_SHARE = 0.2
_SHORTEST_CUT = 8


@dataclass(frozen=True)
class Document:
    """A text, and how much of its beginning is only ever given, never masked."""

    given: str
    text: str
    problems: tuple[Problem, ...] = ()
    """The problems of tasks whose grid, or whose numbers and target, the text contains."""
    is_chat: bool = False
    """``given`` is a user's turn and ``text`` the answer."""


def pretraining_document(*, seed: int, index: int) -> Document:
    """Document number ``index`` of the text with this ``seed``; no other document is made.

    The kinds and their shares are those of ``_KINDS``. Mostly the beginning is given: where
    operands are masked too, few results are determined, and arithmetic is not learned in minutes.
    Half begin with other equations: where everything stands at a fixed place, places are learned
    instead of what stands there. Numbers of calculations are right-aligned to three places in all
    or in half of the documents, as ``_KINDS`` says. Of the longer ones a fifth are given up to
    anywhere, as a text is that is decoded from left to right.
    """
    rng = np.random.default_rng([seed, index])
    kind = int(rng.choice(len(_KINDS), p=[kind[1] for kind in _KINDS]))
    make, _, aligned_share = _KINDS[kind]
    document = make(rng)
    if document.given and not document.is_chat:
        document = replace(document, given=_remains(rng) + document.given)
    if rng.random() < aligned_share:
        document = replace(document, given=aligned(document.given), text=aligned(document.text))
    return document if document.is_chat or not document.given else _cut(document, rng)


def _cut(document: Document, rng: np.random.Generator) -> Document:
    """``document``, or the same with some more of it given."""
    length = len(document.text)
    if length < _SHORTEST_CUT or rng.random() >= _CUT_SHARE:
        return document
    # Not inside of a word: its halves would be other tokens than the whole.
    word = re.compile(r"[a-z]{2}")
    places = [n for n in range(1, length) if not word.match(document.text, n - 1)]
    place = int(rng.choice(places))
    given, text = document.given + document.text[:place], document.text[place:]
    return replace(document, given=given, text=text)


def _grid(rng: np.random.Generator) -> Document:
    """A grid with few blanks, and its completion."""
    puzzle, solution = sudoku.generate_puzzle(rng, _few(rng), unique=False)
    problem = Problem("sudoku", "", {"puzzle": puzzle})
    given, text = f"{puzzle}=", solution
    if rng.random() < 0.2:
        given, text = "", given + text
    return Document(given, text, (problem,))


def _some_worksheet(rng: np.random.Generator) -> Document:
    kind = rng.random()
    if kind < 0.2:
        return _worksheet(list(operands("*", rng)))
    return _worksheet(random_numbers(rng, 2 if kind < 0.5 else 3))


def _single_equation(rng: np.random.Generator) -> Document:
    left, right = equation(rng)
    return Document(f"{left}=", right)


def _few(rng: np.random.Generator) -> int:
    return int(rng.integers(1, _FEW_BLANKS + 1))


def _remains(rng: np.random.Generator) -> str:
    """Nothing, or up to four equations and a line break."""
    if rng.random() < 0.5:
        return ""
    return " ".join(_equations(rng).split(" ")[: int(rng.integers(1, 5))]) + "\n"


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


def _steps(rng: np.random.Generator) -> Document:
    """A pair and a third number, then the chain: ``100-30 93: 100-30=70 93+70=163 93-70=23``."""
    chain = some_chain(rng)
    return Document(f"{chain.pair} {chain.leftover}: ", chain.text, chain.problems)


def _composition(rng: np.random.Generator) -> Document:
    """Chains, a value that occurs in them, and its expression: ``23=93-(100-30)``."""
    chains, value, expression = some_outcome(rng)
    listed = "\n".join(chain.text for chain in chains)
    return Document(f"{listed}\n{value}=", expression, _problems(chains))


def _lookup(rng: np.random.Generator) -> Document:
    """Equations, the result of one, and its left side: ``47+85=132 9-4=5`` and ``5=9-4``."""
    count = int(rng.integers(2, 6))
    found: dict[str, str] = {}
    while len(found) < count:
        left, right = equation(rng)
        found.setdefault(right, left)
    results = list(found)
    value = results[int(rng.integers(len(results)))]
    listed = " ".join(f"{left}={right}" for right, left in found.items())
    return Document(f"{listed}\n{value}=", found[value])


def _problems(chains: list[Chain]) -> tuple[Problem, ...]:
    return tuple(problem for chain in chains for problem in chain.problems)


def _trials(rng: np.random.Generator) -> Document:
    """A chat: a value, and what is to be tried; the chains, and the value's expression.

    ``100-30 93 = 23`` -> ``100-30=70 93+70=163 93-70=23`` and ``23=93-(100-30)``. In most,
    more is tried than the question names, so that it does not say how long the answer is.
    """
    named, value, _ = some_outcome(rng)
    more = int(rng.integers(_MOST_TRIALS - len(named) + 1)) if rng.random() < 0.7 else 0
    tried = named + further_chains(named, more, rng)
    order = rng.permutation(len(tried)).tolist()
    question = ", ".join(f"{tried[k].pair} {tried[k].leftover}" for k in order if k < len(named))
    tried = [tried[k] for k in order]
    expression = next(chain.outcomes[value] for chain in tried if value in chain.outcomes)
    steps = "\n".join([*(chain.text for chain in tried), f"{value}={expression}"])
    return Document(
        f"{question} = {value}", _response(steps, _boxed(expression)), _problems(tried), True
    )


def _boxed(answer: str) -> str:
    return f"\\boxed{{{answer}}}"


def _response(steps: str, answer: str) -> str:
    return f"<reasoning>{steps}</reasoning>\n<answer>{answer}</answer>"


def _exercise(rng: np.random.Generator) -> Document:
    """A chat: an expression to evaluate, its steps, and the boxed value."""
    problems: tuple[Problem, ...] = ()
    if rng.random() < 0.4:
        question, answer = equation(rng)
        steps = f"{question}={answer}"
    else:
        chain = some_chain(rng)
        value = int(rng.choice(list(chain.outcomes)))
        question, answer = chain.outcomes[value], str(value)
        last = next(e for e in chain.equations[1:] if e.endswith(f"={value}"))
        steps = f"{chain.equations[0]} {last}"
        problems = (chain.problem(value),)
    return Document(question, _response(steps, _boxed(answer)), problems, is_chat=True)


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


def _chat_sheet(rng: np.random.Generator) -> Document:
    """A chat: a grid with few blanks, the candidates of its rows, and its completion."""
    puzzle, solution = sudoku.generate_puzzle(rng, _few(rng), unique=False)
    lines = [
        sudoku.row_line(puzzle, row, sudoku.row_candidates(puzzle, row))
        for row in range(sudoku.SIZE)
    ]
    problem = Problem("sudoku", "", {"puzzle": puzzle})
    return Document(f"grid {puzzle}", _response("\n".join(lines), solution), (problem,), True)


def _list(rng: np.random.Generator) -> Document:
    return Document("", _equations(rng))


_KINDS = (
    (_single_equation, 0.32, 0.4),
    (_list, 0.02, 0.5),
    (_some_worksheet, 0.06, 0.5),
    (_bracketed, 0.01, 0.0),
    (_steps, 0.05, 1.0),
    (_lookup, 0.04, 1.0),
    (_composition, 0.18, 1.0),
    (_exercise, 0.02, 1.0),
    (_trials, 0.22, 1.0),
    (_row_sheet, 0.02, 0.0),
    (_chat_sheet, 0.02, 0.0),
    (_grid, 0.04, 0.0),
)
"""The kinds of documents, how often each occurs, and how many of them are aligned."""
