import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.tasks import PUZZLE_NAMES, get_task
from weft.tasks.base import Problem, Verdict
from weft.tasks.grading import countdown, sudoku
from weft.tasks.grading.arithmetic import PYTHON_OPERATORS, evaluate, parse
from weft.tasks.grading.extraction import last_balanced_box

COUNTDOWN = Problem("countdown", "c", {"numbers": [30, 100, 93], "target": 23})
PUZZLE, SOLUTION = "3102200002100320", "3142243142131324"
SUDOKU = Problem("sudoku", "s", {"puzzle": PUZZLE, "solution": SOLUTION, "n_solutions": 1})
PROBLEMS = {"countdown": COUNTDOWN, "sudoku": SUDOKU}


def oracle(shared_data: Path, task: str) -> list[dict[str, Any]]:
    path = shared_data / "oracle" / "llada_8b_instruct_len128.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [row for row in map(json.loads, lines) if row["task"] == task]


def graded(shared_data: Path, task: str) -> list[tuple[dict[str, Any], Verdict]]:
    items = get_task(task).load_benchmark(str(shared_data / "benchmarks"))
    by_id = {item.item_id: item for item in items}
    rows = oracle(shared_data, task)
    return [(r, get_task(task).grade(by_id[r["bench_id"]], r["generation"])) for r in rows]


def test_countdown_d1_equals_every_verdict_of_the_oracle(shared_data: Path) -> None:
    pairs = graded(shared_data, "countdown")
    assert [v.d1_correct for _, v in pairs] == [row["d1_correct"] for row, _ in pairs]
    assert sum(v.d1_correct for _, v in pairs) == 53
    extracted = [countdown.d1_extract(row["generation"]) for row, _ in pairs]
    assert extracted == [row["d1_extracted"] for row, _ in pairs]


def test_sudoku_d1_equals_every_cell_count_of_the_oracle(shared_data: Path) -> None:
    pairs = graded(shared_data, "sudoku")
    assert all(v.details["cells_correct"] == row["d1_correct_cells"] for row, v in pairs)
    assert all(v.details["num_blanks"] == row["d1_empty_cells"] for row, v in pairs)
    assert sum(v.details["num_blanks"] for _, v in pairs) == 2048
    assert sum(v.details["cells_correct"] for _, v in pairs) == 240
    extracted = [sudoku.d1_extract(row["generation"]) for row, _ in pairs]
    assert extracted == [row["d1_extracted"] for row, _ in pairs]


@pytest.mark.parametrize(
    ("text", "d1", "strict"),
    [
        ("<answer>\\boxed{93-(100-30)}</answer>", True, True),
        ("\\boxed{30+93-100}", True, True),
        ("<answer>30 + 93 - 100</answer>", False, True),  # d1 without a box takes the whole text
        ("30+93-100", True, False),
        ("\\boxed{30+93-100=23}", True, False),
        ("\\boxed{30 \\times 93 - 100}", False, False),
        ("\\boxed{30+93}", False, False),
        ("\\boxed{30+93-100-0}", False, False),
        ("\\boxed{3 0+93-100}", False, False),
        ("\\boxed{30+93-100} no, \\boxed{30", False, True),  # the last box never closes
        ("\\boxed{1} <|endoftext|> \\boxed{30+93-100}", True, False),  # d1 reads past the end
        ("\\boxed{23 +(30-30)*(100/93)}", False, False),
        ("\\boxed{(30,100,93)}", False, False),
        ("\\boxed{30(100)93}", False, False),
        ("\\boxed{30/(100-93", False, False),
        ("", False, False),
    ],
)
def test_countdown_verdicts(text: str, d1: bool, strict: bool) -> None:
    verdict = get_task("countdown").grade(COUNTDOWN, text)
    assert (verdict.d1_correct, verdict.strict_correct) == (d1, strict)


@pytest.mark.parametrize(
    ("expression", "numbers", "target"),
    [
        ("2**3-1", [2, 3, 1], 7),
        ("7//2*1", [7, 2, 1], 3),
        ("-2**2+8", [2, 2, 8], 4),  # a power binds more than the sign before it
        ("2**-1*8", [2, 1, 8], 4),
    ],
)
def test_countdown_powers_and_floors_pass_d1_alone(
    expression: str, numbers: list[int], target: int
) -> None:
    assert countdown.d1_is_correct(f"\\boxed{{{expression}}}", numbers, target)
    assert not countdown.strict_is_correct(expression, numbers, target)


def test_countdown_strict_is_exact_where_floats_are_not() -> None:
    # 1/49*49 is 0.9999999999999999 in floats; 300001/300000 is within d1's tolerance of 1.
    assert countdown.strict_is_correct("1/49*49", [1, 49, 49], 1)
    assert countdown.d1_is_correct("\\boxed{300001/300000*1}", [300001, 300000, 1], 1)
    assert not countdown.strict_is_correct("300001/300000*1", [300001, 300000, 1], 1)


@pytest.mark.parametrize("expression", ["99**99**99", "9**(9**(9**9))", "1/(1-1)", "10.0**999"])
def test_countdown_what_cannot_be_computed_is_wrong_at_once(expression: str) -> None:
    numbers = countdown._integers(expression) or []
    started = time.perf_counter()
    assert not countdown.d1_is_correct(f"\\boxed{{{expression}}}", numbers, 1)
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("text", "box"),
    [
        ("\\boxed{a{b}c}", "a{b}c"),
        ("\\boxed{a} \\boxed{b", "a"),
        ("} \\boxed{a}", "a"),
        ("\\boxed{a \\boxed{b} c}", "b"),
        ("{a}", None),
        ("\\boxed a", None),
    ],
)
def test_last_balanced_box(text: str, box: str | None) -> None:
    assert last_balanced_box(text) == box


@pytest.mark.parametrize(
    ("text", "d1"),
    [
        (f"<answer>so:\n```\n{SOLUTION}\n```</answer>", SOLUTION),
        (f"<answer>{SOLUTION}<|eot_id|>", SOLUTION),
        (f"<answer>\n{SOLUTION[:8]}\n{SOLUTION[8:]}</answer>", SOLUTION),
        (f"<answer> </answer> {SOLUTION}<|endoftext|>1", SOLUTION),
        (f"{SOLUTION} </answer>", SOLUTION),
        (f"the grid {SOLUTION}.", SOLUTION),
        (f"the grid {SOLUTION}1.", "0" * 16),
        (f"<answer>{SOLUTION}", SOLUTION),  # nothing ends the answer, but the digits stand alone
        ("<answer>314</answer>", "314" + "0" * 13),
        (f"<answer>{SOLUTION}999</answer>", SOLUTION),
        ("", "0" * 16),
    ],
)
def test_sudoku_d1_extracts_the_first_form_that_matches(text: str, d1: str) -> None:
    assert sudoku.d1_extract(text) == d1


def test_sudoku_valid_is_not_solved() -> None:
    problem = Problem("sudoku", "x", {"puzzle": "0" * 16, "solution": SOLUTION, "n_solutions": 288})
    swapped = SOLUTION.translate(str.maketrans("12", "21"))
    verdict = get_task("sudoku").grade(problem, f"<answer>{swapped}</answer>")
    assert verdict.correct
    assert verdict.details["valid"]
    assert not verdict.details["solved"]
    assert not verdict.details["unique"]
    assert not verdict.d1_correct


@pytest.mark.parametrize(
    ("answer", "extracted", "is_valid"),
    [
        (SOLUTION, SOLUTION, True),
        (f" {SOLUTION[:4]}\n{SOLUTION[4:]}\n", SOLUTION, True),
        ("1342243142133124", "1342243142133124", False),  # breaks a clue
        (SOLUTION[:-1] + "1", SOLUTION[:-1] + "1", False),  # breaks a rule
        (SOLUTION + "1", None, False),
        (SOLUTION[:-1] + "0", None, False),
        (SOLUTION[:-1] + "٤", None, False),
    ],
)
def test_sudoku_strict_verdicts(answer: str, extracted: str | None, is_valid: bool) -> None:
    verdict = get_task("sudoku").grade(SUDOKU, f"1</answer><answer>{answer}</answer>")
    assert verdict.extracted == extracted
    assert verdict.correct is is_valid
    assert verdict.details["unique"]


def test_sudoku_cells_count_blanks_alone() -> None:
    answer = "3" * 16  # right in the clues too, which do not count
    verdict = get_task("sudoku").grade(SUDOKU, f"<answer>{answer}</answer>")
    blanks = [digit for clue, digit in zip(PUZZLE, SOLUTION, strict=True) if clue == "0"]
    assert verdict.details["cells_correct"] == blanks.count("3")
    assert verdict.details["num_blanks"] == len(blanks)


def test_sudoku_aggregate_by_hand() -> None:
    task = get_task("sudoku")
    several = Problem("sudoku", "m", SUDOKU.data | {"n_solutions": 2})
    right, wrong = f"<answer>{SOLUTION}</answer>", "nothing"
    problems = [SUDOKU, SUDOKU, several]
    pairs = zip(problems, (right, wrong, right), strict=True)
    verdicts = [task.grade(problem, text) for problem, text in pairs]
    assert task.aggregate(problems, verdicts) == {
        "cell_accuracy": 2 / 3,
        "valid_rate": 2 / 3,
        "solved_rate": 2 / 3,
        "unique_valid_rate": 1 / 2,
        "num_unique": 2,
    }
    assert "unique_valid_rate" not in task.aggregate([several], verdicts[2:])


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_aggregate_refuses_what_does_not_pair(name: str) -> None:
    with pytest.raises(ValueError, match="got 1 problems and 0 verdicts"):
        get_task(name).aggregate([PROBLEMS[name]], [])


BIG = 300_000
HOSTILE = [
    "\\boxed{" * BIG,
    "\\boxed{" * BIG + "}" * BIG,
    "\\boxed{" + "(" * BIG + "30+93-100" + ")" * BIG + "}",
    "\\boxed{" + "-" * BIG + "30+93-100}",
    "\\boxed{30+93-" + "9" * BIG + "}",
    "\\boxed{30+93-100" + " " * BIG + "}",
    "1" * BIG,
    "1 " * BIG,
    "1+" * BIG + "=",
    "(=" * BIG,
    "<answer>" * BIG,
    "<answer></answer>" * BIG,
    "<answer>" + "```1 " * BIG,
    "<answer>" + "`" * BIG,
    "<answer>```" + " " * BIG + "1",
    "1" * 16 + " " * BIG,
    ("1" * 16 + " " * 50) * (BIG // 66),
    "\ud800\x00" * BIG,
]


@pytest.mark.parametrize("name", PUZZLE_NAMES)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_grade_of_megabytes_is_quick(name: str, number: int) -> None:
    started = time.perf_counter()
    get_task(name).grade(PROBLEMS[name], HOSTILE[number])
    # Linear time takes well below 1 s; quadratic time on 300,000 characters takes minutes.
    assert time.perf_counter() - started < 10


MARKS = [
    "\\boxed",
    "\\boxed ",
    "\\fbox",
    "{",
    "}",
    "$",
    "<answer>",
    "</answer>",
    "```",
    "<|eot_id|>",
]
SYMBOLS = ["30", "100", "93", "+", "-", "*", "/", "(", ")", "=", ".", "...", " ", "\n", SOLUTION]
FRAGMENTS = st.sampled_from([*MARKS, *SYMBOLS])
TEXTS = st.lists(FRAGMENTS | st.text(max_size=3), max_size=25).map("".join)


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_grade_is_total(text: str) -> None:
    for name, problem in PROBLEMS.items():
        verdict = get_task(name).grade(problem, text)
        assert verdict.correct in (True, False)
        assert verdict.d1_correct in (True, False)
    assert len(sudoku.d1_extract(text)) == 16


EXPRESSIONS = st.recursive(
    st.integers(0, 20).map(str),
    lambda inner: (
        st.builds("({}{}{})".format, inner, st.sampled_from(["+", "-", "*", "/", "//"]), inner)
        | inner.map("-{}".format)
    ),
    max_leaves=8,
)


@given(expression=EXPRESSIONS)
@settings(max_examples=200, deadline=None)
def test_evaluate_equals_python(expression: str) -> None:
    tree = parse(expression)
    assert tree is not None
    try:
        # The expressions are made here, of digits and operators: there is nothing to inject.
        wanted = eval(expression)
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="cannot compute"):
            evaluate(tree, PYTHON_OPERATORS, lambda value: value)
    else:
        assert evaluate(tree, PYTHON_OPERATORS, lambda value: value) == wanted


@pytest.mark.parametrize(
    ("text", "numbers", "target"),
    [
        ("\\boxed{7 \\times 4 + 9}", [7, 4, 9], 37),
        ("\\boxed{7 \\cdot 4 + 9}", [7, 4, 9], 37),
        ("\\boxed{8 \\div 4 + 3}", [8, 4, 3], 5),
        ("so $\\boxed 7*4+9$ it is", [7, 4, 9], 37),
        ("\\fbox{7*4+9}", [7, 4, 9], 37),
        ("\\fbox{1} or \\boxed{7*4+9}", [7, 4, 9], 37),
        ("\\boxed{7*4 <answer>7*4+9</answer>", [7, 4, 9], 37),  # never closes: the answer counts
    ],
)
def test_countdown_d1_reads_every_form_of_a_right_answer(
    text: str, numbers: list[int], target: int
) -> None:
    assert countdown.d1_is_correct(text, numbers, target)
    assert not countdown.d1_is_correct(text, numbers, target + 1)
