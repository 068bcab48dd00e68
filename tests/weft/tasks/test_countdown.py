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
    lengths = set()
    for _ in range(200):
        numbers, target = countdown.generate_problem(rng)
        trace, expression = countdown.solution_trace(numbers, target)
        assert min(numbers) >= 1 <= target <= 100 >= max(numbers)
        assert _numbers_in(expression) == sorted(numbers)
        *guesses, check = trace.split("\n")
        assert check == f"{target:>3}={expression}"
        assert _value(expression) == target
        x, y, z = sorted(numbers, reverse=True)
        found = [_results(line) for line in guesses]
        assert found == [[x + y, x + y + z, x + y - z], [x - y, x - y + z, abs(x - y - z)]]
        reached = [target in outcomes for _, *outcomes in found]
        is_sum = not set(expression) & set("*/")
        assert any(reached) == is_sum
        lengths.add(len(trace))
    assert len(lengths) == 1


def _results(line: str) -> list[int]:
    """The pair's value, and what it and the number left over make; each equation checked."""
    parts = re.findall(r"([ \d]+[-+*/][ \d]+)=( *\d+)", line)
    assert all(_value(left) == int(right) and len(right) >= 3 for left, right in parts)
    return [int(right) for _, right in parts]


def test_generate_problem_mostly_needs_sums_and_differences_alone() -> None:
    rng = np.random.default_rng(0)
    problems = [countdown.generate_problem(rng) for _ in range(200)]
    solutions = [countdown.solution_trace(*problem)[1] for problem in problems]
    sums = sum(not set(solution) & set("*/") for solution in solutions)
    # 229 of the 256 real items are of this kind; five standard errors are 10 points.
    assert 0.8 <= sums / 200 < 1


def test_solution_trace_guesses_and_checks() -> None:
    trace, expression = countdown.solution_trace((93, 30, 100), 23)
    assert expression == " 30-(100- 93)"
    assert trace.split("\n") == [
        "100+ 93=193 193+ 30=223 193- 30=163",
        "100- 93=  7  30+  7= 37  30-  7= 23",
        " 23= 30-(100- 93)",
    ]


def test_solution_trace_puts_the_pair_of_a_sum_first() -> None:
    trace, expression = countdown.solution_trace((6, 17, 15), 8)
    assert trace.split("\n") == [
        " 17+ 15= 32  32+  6= 38  32-  6= 26",
        " 17- 15=  2   6+  2=  8   6-  2=  4",
        "  8=( 17- 15)+  6",
    ]
    assert expression == "( 17- 15)+  6"


def test_solution_trace_of_a_product_has_two_dead_ends() -> None:
    trace, expression = countdown.solution_trace((35, 4, 82), 58)
    assert trace.split("\n") == [
        " 82+ 35=117 117+  4=121 117-  4=113",
        " 82- 35= 47  47+  4= 51  47-  4= 43",
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
