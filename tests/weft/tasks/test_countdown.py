"""The solver against an independent enumeration, traces against exact arithmetic."""

import itertools
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from weft.tasks import countdown


def _value(expression: str) -> Fraction:
    """Exact value; the numbers become fractions so that ``/`` loses nothing."""
    expression = expression.replace(" ", "")
    assert re.fullmatch(r"[0-9+\-*/()]+", expression)
    return Fraction(eval(re.sub(r"(\d+)", r"Fraction(\1)", expression)))


def _numbers_in(expression: str) -> list[int]:
    return sorted(int(n) for n in re.findall(r"\d+", expression))


def test_combine_keeps_to_whole_numbers_not_below_zero() -> None:
    three, six = countdown.Term("  3", 3), countdown.Term("  6", 6)
    assert countdown.combine(three, six, "-") is None
    assert countdown.combine(three, six, "/") is None
    assert countdown.combine(six, countdown.Term("3-3", 0), "/") is None
    assert countdown.combine(six, three, "/") == countdown.Term("  6/  3", 2)


def test_combine_puts_an_expression_in_brackets() -> None:
    inner = countdown.Term("9-4", 5)
    assert countdown.combine(countdown.Term("  8", 8), inner, "*") == countdown.Term(
        "  8*(9-4)", 40
    )


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
        *guesses, check = trace.split("\n")
        assert check == f"{target:>3}={expression}"
        assert _value(expression) == target
        results = [_results(line) for line in guesses]
        reached = [target in found[1:] for found in results]
        assert reached[-1] or reached[-2]
        assert not any(reached[:-2])
        for line, (_, *outcomes) in zip(guesses, results, strict=True):
            marks = ["ok" if outcome == target else "no" for outcome in outcomes]
            assert re.findall(r"[a-z]+", line) == marks


def _results(line: str) -> list[int]:
    """The pair's value, and what it and the number left over make; each equation checked."""
    parts = re.findall(r"([ \d]+[-+*/][ \d]+)=( *\d+)", line)
    assert all(_value(left) == int(right) and len(right) >= 3 for left, right in parts)
    return [int(right) for _, right in parts]


def test_generate_problem_mostly_needs_sums_and_differences_alone() -> None:
    rng = np.random.default_rng(0)
    problems = [countdown.generate_problem(rng) for _ in range(200)]
    traces = [countdown.solution_trace(*problem)[0] for problem in problems]
    short = sum(trace.count("\n") == 2 for trace in traces)
    # 229 of the 256 real items are of this kind; five standard errors are 10 points.
    assert 0.8 <= short / 200 < 1


def test_solution_trace_guesses_and_checks() -> None:
    trace, expression = countdown.solution_trace((100, 30, 93), 23)
    assert expression == " 93-(100- 30)"
    assert trace.split("\n") == [
        "100+ 30=130 130+ 93=223 no 130- 93= 37 no",
        "100- 30= 70  93+ 70=163 no  93- 70= 23 ok",
        " 23= 93-(100- 30)",
    ]


def test_solution_trace_always_has_the_sum_and_the_difference() -> None:
    trace, expression = countdown.solution_trace((17, 6, 15), 38)
    assert trace.split("\n") == [
        " 17+  6= 23  23+ 15= 38 ok  23- 15=  8 no",
        " 17-  6= 11  15+ 11= 26 no  15- 11=  4 no",
        " 38=( 17+  6)+ 15",
    ]
    assert expression == "( 17+  6)+ 15"


def test_solution_trace_goes_on_with_products_up_to_the_first_that_helps() -> None:
    trace, expression = countdown.solution_trace((35, 4, 82), 58)
    assert trace.split("\n") == [
        " 35+  4= 39  82+ 39=121 no  82- 39= 43 no",
        " 35-  4= 31  82+ 31=113 no  82- 31= 51 no",
        " 35*  4=140 140+ 82=222 no 140- 82= 58 ok",
        " 58=( 35*  4)- 82",
    ]
    assert expression == "( 35*  4)- 82"


def _reachable(numbers: tuple[int, ...]) -> set[int]:
    """Targets of all expressions with whole intermediate values not below 0."""

    def joined(a: int, b: int) -> set[int]:
        values = {a + b, abs(a - b), a * b}
        return values | {x // y for x, y in ((a, b), (b, a)) if y and x % y == 0}

    return {
        value
        for a, b, c in itertools.permutations(numbers)
        for pair in joined(a, b)
        for value in joined(pair, c)
    }


@pytest.mark.parametrize("numbers", [(1, 1, 1), (2, 3, 50), (8, 4, 96), (77, 60, 70), (7, 7, 49)])
def test_solution_trace_finds_what_can_be_found_and_nothing_else(numbers: tuple[int, ...]) -> None:
    reachable = _reachable(numbers)
    for target in range(1, countdown.LARGEST + 1):
        if target in reachable:
            _, expression = countdown.solution_trace(numbers, target)
            assert _value(expression) == target
            assert _numbers_in(expression) == sorted(numbers)
        else:
            with pytest.raises(ValueError, match=f"cannot make {target}"):
                countdown.solution_trace(numbers, target)


def test_every_real_item_has_a_trace(shared_data: Path) -> None:
    lines = (shared_data / "benchmarks" / "countdown_cd3_test.jsonl").read_text().splitlines()
    for item in map(json.loads, lines):
        _, expression = countdown.solution_trace(tuple(item["numbers"]), item["target"])
        assert _value(expression) == item["target"]
        assert _numbers_in(expression) == sorted(item["numbers"])
