"""Sudoku 4x4: puzzles, a solver that searches as a person would, and the trace of its search.

A grid is a string of 16 characters, row by row, with ``0`` for a blank.
"""

import functools
import itertools
from collections.abc import Iterator

import numpy as np

SIZE = 4
NUM_CELLS = SIZE * SIZE
DIGITS = "1234"
_NONE = "-" * SIZE


@functools.cache
def peers(cell: int) -> tuple[int, ...]:
    """The other cells of the row, the column and the box of ``cell`` (0..15)."""
    row, column = divmod(cell, SIZE)
    box = (row // 2, column // 2)
    return tuple(
        other
        for other in range(NUM_CELLS)
        if other != cell
        and (
            other // SIZE == row
            or other % SIZE == column
            or (other // SIZE // 2, other % SIZE // 2) == box
        )
    )


def candidates(grid: str, cell: int) -> str:
    """Digits that the peers of ``cell`` leave possible, in rising order."""
    taken = {grid[other] for other in peers(cell)}
    return "".join(digit for digit in DIGITS if digit not in taken)


def is_valid_solution(puzzle: str, solution: str) -> bool:
    """Whether ``solution`` fills ``puzzle`` completely, keeps its clues and breaks no rule."""
    if len(solution) != NUM_CELLS or set(solution) - set(DIGITS):
        return False
    keeps_clues = all(clue in ("0", digit) for clue, digit in zip(puzzle, solution, strict=True))
    return keeps_clues and all(
        solution[cell] not in {solution[other] for other in peers(cell)}
        for cell in range(NUM_CELLS)
    )


def solve(puzzle: str, limit: int = 16) -> list[str]:
    """Up to ``limit`` solutions of ``puzzle``, in a fixed order; none if it contradicts itself.

    Raises ValueError unless ``puzzle`` is 16 characters 0-4.
    """
    if len(puzzle) != NUM_CELLS or set(puzzle) - set("0" + DIGITS):
        raise ValueError(f"solve: wanted 16 characters 0-4, got {puzzle!r}")
    if any(d != "0" and d in {puzzle[p] for p in peers(c)} for c, d in enumerate(puzzle)):
        return []
    return list(itertools.islice(_solutions(puzzle), limit))


def _solutions(grid: str) -> Iterator[str]:
    cell = _most_constrained(grid)
    if cell is None:
        yield grid
        return
    for digit in candidates(grid, cell):
        yield from _solutions(_fill(grid, cell, digit))


def _fill(grid: str, cell: int, digit: str) -> str:
    return grid[:cell] + digit + grid[cell + 1 :]


def _most_constrained(grid: str) -> int | None:
    """The first blank with the fewest candidates; None when nothing is blank."""
    blanks = [cell for cell in range(NUM_CELLS) if grid[cell] == "0"]
    return min(blanks, key=lambda cell: (len(candidates(grid, cell)), cell), default=None)


@functools.cache
def all_grids() -> tuple[str, ...]:
    """The 288 complete grids, in a fixed order."""
    return tuple(_solutions("0" * NUM_CELLS))


def generate_puzzle(
    rng: np.random.Generator, num_blanks: int = 8, *, unique: bool = True
) -> tuple[str, str]:
    """``(puzzle, solution)`` with ``num_blanks`` blanks; with ``unique``, of one solution only.

    Raises ValueError unless 0 <= num_blanks <= 10: with more, a unique puzzle is too rare to wait
    for.
    """
    if not 0 <= num_blanks <= 10:
        raise ValueError(f"generate_puzzle: wanted 0 to 10 blanks, got {num_blanks}")
    while True:
        solution = all_grids()[int(rng.integers(len(all_grids())))]
        blanks = set(rng.choice(NUM_CELLS, size=num_blanks, replace=False).tolist())
        puzzle = "".join("0" if c in blanks else d for c, d in enumerate(solution))
        if not unique or len(solve(puzzle, limit=2)) == 1:
            return puzzle, solution


def row_candidates(grid: str, row: int) -> list[str]:
    """Ways to fill row ``row`` (0..3) of ``grid``, in rising order.

    They keep the row's clues, repeat no digit of their columns, and none of the boxes that this row
    completes. Boxes whose other row comes later are not looked at: their turn is then.
    """
    return [
        digits
        for digits in _permutations()
        if all(
            clue in ("0", digit) and digit not in _taken(grid, row, column)
            for column, (clue, digit) in enumerate(zip(row_of(grid, row), digits, strict=True))
        )
    ]


def row_of(grid: str, row: int) -> str:
    """The four characters of row ``row`` (0..3)."""
    return grid[SIZE * row : SIZE * (row + 1)]


def row_line(grid: str, row: int, options: list[str]) -> str:
    """Number (from 1), clues and candidates of a row: ``2:2000>2413 2431``, ``3:0210>-``."""
    return f"{row + 1}:{row_of(grid, row)}>{' '.join(options) or '-'}"


@functools.cache
def _permutations() -> tuple[str, ...]:
    return tuple("".join(digits) for digits in itertools.permutations(DIGITS))


def _taken(grid: str, row: int, column: int) -> set[str]:
    """Digits of the column in other rows, and of the box in rows above."""
    in_column = {grid[SIZE * other + column] for other in range(SIZE) if other != row}
    cell = SIZE * row + column
    return in_column | {grid[peer] for peer in peers(cell) if peer // SIZE < row}


def solution_trace(puzzle: str) -> tuple[str, str]:
    """``(trace, solution)`` of a depth-first search, row by row.

    A line has a row's number and clues, the candidate that was kept, and the last one that was
    given up before it, because it led to a row without candidates: ``2:4000>4321 4312``. Without
    any, ``2:4000>4312 ----``. ``ok`` closes the check of the finished grid.

    All traces have the same places for the same things: a denoiser that fills a canvas in any
    order decides how many lines there are before it knows whether the first guesses are right.
    Raises ValueError when the puzzle has no solution.
    """
    choices = _search(puzzle, 0)
    if choices is None:
        raise ValueError(f"solution_trace: wanted a puzzle with a solution, got {puzzle}")
    lines = [
        row_line(puzzle, row, [kept, given_up or _NONE])
        for row, (kept, given_up) in enumerate(choices)
    ]
    return "\n".join([*lines, "ok"]), "".join(kept for kept, _ in choices)


def _search(grid: str, row: int) -> list[tuple[str, str]] | None:
    """``(kept, given up)`` of ``row`` and the rows behind it; None where there is no solution."""
    if row == SIZE:
        return []
    given_up = ""
    for digits in row_candidates(grid, row):
        filled = grid[: SIZE * row] + digits + grid[SIZE * (row + 1) :]
        rest = _search(filled, row + 1)
        if rest is not None:
            return [(digits, given_up), *rest]
        given_up = digits
    return None
