"""The solver against an independent enumeration, traces against exact arithmetic."""

import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from weft.tasks import countdown


def _value(expression: str) -> Fraction:
    """Exact value; the numbers become fractions so that ``/`` loses nothing."""
    assert re.fullmatch(r"[0-9+\-*/()]+", expression)
    return Fraction(eval(re.sub(r"(\d+)", r"Fraction(\1)", expression)))


def _numbers_in(expression: str) -> list[int]:
    return sorted(int(n) for n in re.findall(r"\d+", expression))


def test_combine_keeps_to_whole_numbers_not_below_zero() -> None:
    three, six = countdown.Term("3", 3), countdown.Term("6", 6)
    assert countdown.combine(three, six, "-") is None
    assert countdown.combine(three, six, "/") is None
    assert countdown.combine(six, countdown.Term("3-3", 0), "/") is None
    assert countdown.combine(six, three, "/") == countdown.Term("6/3", 2)


def test_combine_puts_an_expression_in_brackets() -> None:
    inner = countdown.Term("9-4", 5)
    assert countdown.combine(countdown.Term("8", 8), inner, "*") == countdown.Term("8*(9-4)", 40)


def test_expressions_evaluate_to_the_values_they_name() -> None:
    terms = list(countdown.expressions((12, 4, 3)))
    assert {term.value for term in terms} >= {12 + 4 + 3, (12 - 4) * 3, 12 // (4 - 3), 12 * 4 // 3}
    for term in terms:
        assert _value(term.text) == term.value >= 0
        assert _numbers_in(term.text) == [3, 4, 12]


@pytest.mark.parametrize(("numbers", "target"), [((30, 100, 93), 23), ((82, 35, 4), 58)])
def test_solve_finds_an_expression_of_the_target(numbers: tuple[int, ...], target: int) -> None:
    expression = countdown.solve(numbers, target)
    assert expression is not None
    assert _value(expression) == target
    assert _numbers_in(expression) == sorted(numbers)


def test_solve_says_none_where_nothing_fits() -> None:
    assert countdown.solve((1, 1, 1), 100) is None


def test_generate_problem_repeats_with_its_generator() -> None:
    first, second = (countdown.generate_problem(np.random.default_rng(3)) for _ in range(2))
    assert first == second
    assert first != countdown.generate_problem(np.random.default_rng(4))


def test_solution_trace_is_true_line_by_line() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        numbers, target = countdown.generate_problem(rng)
        trace, expression = countdown.solution_trace(numbers, target)
        assert len(trace) <= countdown.MAX_TRACE_CHARACTERS
        assert min(numbers) >= 1 <= target <= 100 >= max(numbers)
        assert _numbers_in(expression) == sorted(numbers)
        assert trace.endswith(f"\n{expression}={target} ok")
        equations = re.findall(r"(\S+)=(\d+)", trace)
        assert len(equations) >= 4
        assert all(_value(left) == int(right) for left, right in equations)


def test_generate_problem_mostly_needs_sums_and_differences_alone() -> None:
    rng = np.random.default_rng(0)
    problems = [countdown.generate_problem(rng) for _ in range(200)]
    short = sum(" no" not in countdown.solution_trace(*problem)[0] for problem in problems)
    # 229 of the 256 real items are of this kind; five standard errors are 10 points.
    assert 0.8 <= short / 200 < 1


def test_solution_trace_shows_a_meeting_of_both_sides() -> None:
    trace, expression = countdown.solution_trace((100, 30, 93), 23)
    assert expression == "93-(100-30)"
    assert trace.split("\n") == [
        "93: 100+30=130 100-30=70",
        "23: 93+23=116 93-23=70",
        "93-(100-30)=23 ok",
    ]


def test_solution_trace_marks_a_dead_end_before_products() -> None:
    trace, expression = countdown.solution_trace((35, 4, 82), 58)
    assert trace.startswith("82: 35+4=39 35-4=31\n58: 82+58=140 82-58=24 no\n")
    assert _value(expression) == 58


def test_solution_trace_raises_without_a_solution() -> None:
    with pytest.raises(ValueError, match="cannot make 100"):
        countdown.solution_trace((1, 1, 1), 100)


def test_every_real_item_has_a_trace(shared_data: Path) -> None:
    lines = (shared_data / "benchmarks" / "countdown_cd3_test.jsonl").read_text().splitlines()
    for item in map(json.loads, lines):
        _, expression = countdown.solution_trace(tuple(item["numbers"]), item["target"])
        assert _value(expression) == item["target"]
        assert _numbers_in(expression) == sorted(item["numbers"])
