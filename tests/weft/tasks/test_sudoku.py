"""The solver against brute force, puzzles against their promises, traces against the rules."""

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


def _replay(puzzle: str, trace: str) -> tuple[str, int]:
    """The grid at the end of ``trace`` and its dead ends; every step is checked on the way."""
    *steps, check = trace.split(" ")
    assert check == "ok"
    grid, guesses, dead_ends = puzzle, {}, 0
    for step in steps:
        name, found = step.split(":")
        cell = 4 * (int(name[0]) - 1) + int(name[1]) - 1
        if cell in guesses:  # going back: the grid is again what it was before this guess
            grid = guesses[cell]
            guesses = {place: there for place, there in guesses.items() if place < cell}
        options, _, tried = found.partition("?")
        assert options == (sudoku.candidates(grid, cell) or "-")
        if options == "-":
            dead_ends += 1
            continue
        if tried:
            guesses[cell] = grid
        grid = grid[:cell] + (tried or options) + grid[cell + 1 :]
    return grid, dead_ends


def test_solution_trace_replayed_gives_the_solution() -> None:
    rng = np.random.default_rng(1)
    total_dead_ends = 0
    for _ in range(50):
        puzzle, solution = sudoku.generate_puzzle(rng)
        trace, found = sudoku.solution_trace(puzzle)
        assert found == solution
        grid, dead_ends = _replay(puzzle, trace)
        assert grid == solution
        total_dead_ends += dead_ends
    assert total_dead_ends > 10  # about every third puzzle has one


def test_solution_trace_of_a_puzzle_without_solution_raises() -> None:
    with pytest.raises(ValueError, match="a puzzle with a solution"):
        sudoku.solution_trace("1230" + "0004" + "0" * 8)


def test_solver_agrees_with_the_real_items(shared_data: Path) -> None:
    lines = (shared_data / "benchmarks" / "sudoku_4x4_test.jsonl").read_text().splitlines()
    for item in map(json.loads, lines):
        solutions = sudoku.solve(item["puzzle"])
        assert len(solutions) == item["n_solutions"]
        assert item["solution"] in solutions
