"""The task Sudoku 4x4.

``Problem.data``: ``puzzle`` and ``solution``, 16 characters row by row with ``0`` for a blank, and
``n_solutions``, how many solutions keep the clues.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weft.tasks import sudoku
from weft.tasks.base import Problem, PuzzleTask, Verdict, check_paired, share
from weft.tasks.benchmarks import require_integer, require_string
from weft.tasks.grading import sudoku as grading

_D1_SYSTEM = """
Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string \
reading left-to-right, top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-4
- Each row must contain digits 1-4 exactly once
- Each column must contain digits 1-4 exactly once
- Each 2x2 box must contain digits 1-4 exactly once

Important: Your solution must be a COMPLETE 16-character string with only the digits 1-4, \
representing your final solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>
"""


class SudokuTask(PuzzleTask):
    """Fill the blanks of a 4x4 grid."""

    name = "sudoku"
    headline = "valid_rate"
    benchmark_file = "sudoku_4x4_test.jsonl"

    @property
    def d1_system(self) -> str:
        """The instructions of d1's prompt."""
        return _D1_SYSTEM

    def d1_question(self, problem: Problem) -> str:
        """The question of d1's prompt."""
        return f"Solve the following Sudoku puzzle: {problem.data['puzzle']}\n"

    def compact_question(self, problem: Problem) -> str:
        """``sudoku 3102200002100320``."""
        return f"sudoku {problem.data['puzzle']}"

    def identity(self, problem: Problem) -> str:
        """The grid of clues."""
        return str(problem.data["puzzle"])

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item with its clues, a solution that keeps them, and the number of solutions."""
        puzzle, solution = require_string(row, "puzzle"), require_string(row, "solution")
        if len(puzzle) != sudoku.NUM_CELLS or set(puzzle) - set("0" + sudoku.DIGITS):
            raise ValueError(f"wanted 16 characters 0-4 as 'puzzle', got {puzzle!r}")
        if not sudoku.is_valid_solution(puzzle, solution):
            raise ValueError(f"wanted a solution of {puzzle} as 'solution', got {solution!r}")
        num_solutions = require_integer(row, "n_solutions", least=1)
        return _problem(require_string(row, "id"), puzzle, solution, num_solutions)

    def generate(self, seed: int, index: int) -> Problem:
        """A puzzle with eight blanks, as in d1's test file, and one solution."""
        puzzle, solution = sudoku.generate_puzzle(np.random.default_rng([seed, index]))
        return _problem(f"sudoku-{seed}-{index}", puzzle, solution, num_solutions=1)

    def trace(self, problem: Problem) -> tuple[str, str]:
        """The solver's search, and the grid it found."""
        return sudoku.solution_trace(problem.data["puzzle"])

    def grade(self, problem: Problem, text: str) -> Verdict:
        """Strict: a solution that keeps the clues, whether or not it is the reference.

        Details: ``cells_correct`` of ``num_blanks`` by d1's reading of the text, ``solved`` (equal
        to the reference), ``valid`` and ``unique`` (the item has one solution only). d1 itself
        scores cells; ``d1_correct`` means all of them.
        """
        puzzle, solution = problem.data["puzzle"], problem.data["solution"]
        answer = grading.strict_extract(text)
        is_valid = answer is not None and sudoku.is_valid_solution(puzzle, answer)
        num_correct = grading.cells_correct(puzzle, solution, grading.d1_extract(text))
        num_blanks = puzzle.count("0")
        details = {
            "cells_correct": num_correct,
            "num_blanks": num_blanks,
            "solved": answer == solution,
            "valid": is_valid,
            "unique": problem.data["n_solutions"] == 1,
        }
        return Verdict(answer, num_correct == num_blanks, is_valid, details)

    def aggregate(
        self, problems: Sequence[Problem], verdicts: Sequence[Verdict]
    ) -> dict[str, float | int]:
        """``cell_accuracy`` (d1's score), ``valid_rate``, ``solved_rate``.

        Of the items with one solution: ``num_unique`` and ``unique_valid_rate``.
        """
        check_paired(problems, verdicts)
        details = [verdict.details for verdict in verdicts]
        unique = [found for found in details if found["unique"]]
        shares = {
            "cell_accuracy": share(_total(details, "cells_correct"), _total(details, "num_blanks")),
            "valid_rate": share(_total(details, "valid"), len(details)),
            "solved_rate": share(_total(details, "solved"), len(details)),
            "unique_valid_rate": share(_total(unique, "valid"), len(unique)),
        }
        known = {name: value for name, value in shares.items() if value is not None}
        return known | {"num_unique": len(unique)}


def _problem(item_id: str, puzzle: str, solution: str, num_solutions: int) -> Problem:
    data = {"puzzle": puzzle, "solution": solution, "n_solutions": num_solutions}
    return Problem("sudoku", item_id, data)


def _total(details: Sequence[Mapping[str, int | bool]], name: str) -> int:
    return sum(int(found[name]) for found in details)


TASK = SudokuTask()
