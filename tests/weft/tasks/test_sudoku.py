"""The solver against brute force, puzzles against their promises, traces against the rules."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from weft.tasks import sudoku

_PUZZLE = "3102200002100320"
_SOLUTION = "3142243142131324"


def test_all_grids_are_the_288_of_the_literature() -> None:
    grids = sudoku.all_grids()
    assert len(set(grids)) == len(grids) == 288
    assert all(sudoku.is_valid_solution("0" * 16, grid) for grid in grids)


def test_peers_of_the_first_cell_are_its_row_column_and_box() -> None:
    assert sudoku.peers(0) == (1, 2, 3, 4, 5, 8, 12)


def test_solve_finds_what_filtering_all_grids_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        puzzle, _ = sudoku.generate_puzzle(rng, 10, unique=False)
        fits = [g for g in sudoku.all_grids() if sudoku.is_valid_solution(puzzle, g)]
        assert sorted(sudoku.solve(puzzle, limit=288)) == sorted(fits)


def test_solve_stops_at_its_limit() -> None:
    assert len(sudoku.solve("0" * 16, limit=3)) == 3


def test_solve_of_a_puzzle_that_contradicts_itself_is_empty() -> None:
    assert sudoku.solve("11" + "0" * 14) == []


@pytest.mark.parametrize("puzzle", ["310220000210032", "31022000021003205", "310220000210032x"])
def test_solve_refuses_what_is_not_a_grid(puzzle: str) -> None:
    with pytest.raises(ValueError, match="16 characters 0-4"):
        sudoku.solve(puzzle)


@pytest.mark.parametrize("wrong", [_SOLUTION[:-1], "0" + _SOLUTION[1:], _SOLUTION[::-1]])
def test_is_valid_solution_refuses_short_blank_and_changed_grids(wrong: str) -> None:
    assert sudoku.is_valid_solution(_PUZZLE, _SOLUTION)
    assert not sudoku.is_valid_solution(_PUZZLE, wrong)


@pytest.mark.parametrize("num_blanks", [0, 1, 5, 8])
def test_generate_puzzle_is_unique_with_the_wanted_blanks(num_blanks: int) -> None:
    rng = np.random.default_rng(num_blanks)
    for _ in range(10):
        puzzle, solution = sudoku.generate_puzzle(rng, num_blanks)
        assert puzzle.count("0") == num_blanks
        assert sudoku.solve(puzzle) == [solution]


def test_generate_puzzle_repeats_with_its_generator() -> None:
    first, second = (sudoku.generate_puzzle(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert first != sudoku.generate_puzzle(np.random.default_rng(4))


def test_generate_puzzle_refuses_more_blanks_than_it_can_serve() -> None:
    with pytest.raises(ValueError, match="0 to 10 blanks"):
        sudoku.generate_puzzle(np.random.default_rng(0), 11)


def _fits(grid: str, row: int, digits: str) -> bool:
    """Whether ``digits`` as this row keep its clues, its columns and the box it completes."""
    cells = range(4 * row, 4 * row + 4)
    filled = grid[: cells[0]] + digits + grid[cells[-1] + 1 :]
    columns = [[filled[c + 4 * r] for r in range(4)] for c in range(4)]
    boxes = [[filled[4 * r + c + i] for r in (row - 1, row) for i in (0, 1)] for c in (0, 2)]
    groups = columns + (boxes if row % 2 else [])
    known = [[digit for digit in group if digit != "0"] for group in groups]
    keeps = all(grid[cell] in ("0", filled[cell]) for cell in cells)
    return keeps and all(len(set(group)) == len(group) for group in known)


def test_row_candidates_are_the_permutations_that_fit() -> None:
    rng = np.random.default_rng(2)
    permutations = ["".join(p) for p in itertools.permutations("1234")]
    for _ in range(50):
        puzzle, solution = sudoku.generate_puzzle(rng)
        for row in range(4):
            found = sudoku.row_candidates(puzzle, row)
            assert found == [digits for digits in permutations if _fits(puzzle, row, digits)]
            assert sudoku.row_of(solution, row) in found


def test_row_line_names_row_clues_and_candidates() -> None:
    assert sudoku.row_line(_PUZZLE, 1, ["2413", "2431"]) == "2:2000>2413 2431"
    assert sudoku.row_line(_PUZZLE, 2, []) == "3:0210>-"


def _candidates_left(grid: str, row: int) -> list[str]:
    """Candidates of ``row`` behind which every further row can be filled too."""
    if row == 4:
        return [""]
    kept = []
    for digits in sudoku.row_candidates(grid, row):
        filled = grid[: 4 * row] + digits + grid[4 * row + 4 :]
        if _candidates_left(filled, row + 1):
            kept.append(digits)
    return kept


def test_solution_trace_is_true_line_by_line() -> None:
    """The first candidate that leads to a solution, and the last one before it that does not."""
    rng = np.random.default_rng(1)
    num_given_up = 0
    for _ in range(100):
        puzzle, _ = sudoku.generate_puzzle(rng, unique=False)
        trace, found = sudoku.solution_trace(puzzle)
        assert sudoku.is_valid_solution(puzzle, found)
        *lines, check = trace.split("\n")
        assert (check, len(lines)) == ("ok", 4)
        for row, line in enumerate(lines):
            grid = found[: 4 * row] + puzzle[4 * row :]
            options, good = sudoku.row_candidates(grid, row), _candidates_left(grid, row)
            before = options[: options.index(good[0])]
            given_up = before[-1] if before else "----"
            assert line == sudoku.row_line(puzzle, row, [good[0], given_up])
            assert good[0] == found[4 * row : 4 * row + 4]
            num_given_up += bool(before)
    assert num_given_up > 4  # about every tenth puzzle has one


def test_solution_trace_names_what_was_given_up() -> None:
    trace, solution = sudoku.solution_trace("0204400024033040")
    assert solution == "1234432124133142"
    assert trace.split("\n") == [
        "1:0204>1234 ----",
        "2:4000>4321 4312",
        "3:2403>2413 ----",
        "4:3040>3142 ----",
        "ok",
    ]


def test_all_traces_have_the_same_places_for_the_same_things() -> None:
    """How many lines there are must not depend on guesses that are not made yet."""
    rng = np.random.default_rng(2)
    traces = [sudoku.solution_trace(sudoku.generate_puzzle(rng)[0])[0] for _ in range(60)]
    fixed = {tuple(c for c in trace if c not in "01234-") for trace in traces}
    assert {len(trace) for trace in traces} == {70}
    assert len(fixed) == 1


def test_solution_trace_of_a_puzzle_without_solution_raises() -> None:
    with pytest.raises(ValueError, match="a puzzle with a solution"):
        sudoku.solution_trace("1230" + "0004" + "0" * 8)


def test_solver_agrees_with_the_real_items(shared_data: Path) -> None:
    lines = (shared_data / "benchmarks" / "sudoku_4x4_test.jsonl").read_text().splitlines()
    for item in map(json.loads, lines):
        solutions = sudoku.solve(item["puzzle"])
        assert len(solutions) == item["n_solutions"]
        assert item["solution"] in solutions
