import hashlib
from pathlib import Path

import pytest

from weft.tasks import PUZZLE_NAMES, get_puzzle
from weft.tasks.base import Problem
from weft.tasks.fingerprints import (
    benchmark_fingerprints,
    fingerprint,
    is_benchmark_item,
    is_held_out,
)


def countdown(numbers: list[int], target: int) -> Problem:
    return Problem("countdown", "any", {"numbers": numbers, "target": target})


def test_fingerprint_is_the_digest_of_the_identity() -> None:
    wanted = hashlib.sha256(b"countdown:30 93 100=23").hexdigest()
    assert fingerprint(countdown([30, 100, 93], 23)) == wanted
    sudoku = Problem("sudoku", "any", {"puzzle": "3102200002100320"})
    assert fingerprint(sudoku) == hashlib.sha256(b"sudoku:3102200002100320").hexdigest()


def test_fingerprint_ignores_order_and_keeps_multiplicity_and_target() -> None:
    first = fingerprint(countdown([90, 43, 90], 43))
    assert fingerprint(countdown([43, 90, 90], 43)) == first
    assert fingerprint(countdown([43, 43, 90], 43)) != first
    assert fingerprint(countdown([90, 43, 90], 44)) != first


def test_published_items_are_known_without_their_files() -> None:
    assert len(benchmark_fingerprints()) == 256 + 500
    assert is_benchmark_item(countdown([100, 93, 30], 23))
    assert not is_benchmark_item(countdown([100, 93, 30], 37))
    assert is_benchmark_item(Problem("sudoku", "any", {"puzzle": "3102200002100320"}))
    assert not is_benchmark_item(Problem("sudoku", "any", {"puzzle": "3102200002100324"}))


def test_list_equals_that_of_the_published_files(shared_data: Path) -> None:
    folder = str(shared_data / "benchmarks")
    items = [item for name in PUZZLE_NAMES for item in get_puzzle(name).load_benchmark(folder)]
    assert {fingerprint(item) for item in items} == benchmark_fingerprints()


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_held_out_is_a_sixteenth_decided_by_content(name: str) -> None:
    task = get_puzzle(name)
    problems = [task.generate(seed=0, index=index) for index in range(800)]
    held_out = [problem for problem in problems if is_held_out(problem)]
    # 50 expected of 800; six standard deviations of a binomial are 41.
    assert 9 < len(held_out) < 91
    assert is_held_out(Problem(name, "another id", held_out[0].data))
