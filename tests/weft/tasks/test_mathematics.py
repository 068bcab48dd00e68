"""GSM8K and MATH-500: every verdict of d1 on real generations, and its rules one by one."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.tasks import get_task
from weft.tasks.base import Problem, Verdict
from weft.tasks.grading import gsm8k, math500


@pytest.fixture(scope="module")
def graded(shared_data: Path) -> dict[str, list[tuple[dict[str, Any], Verdict]]]:
    path = shared_data / "oracle" / "llada_8b_instruct_len128.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    found = {}
    for name in ("gsm8k", "math500"):
        task = get_task(name)
        items = {p.item_id: p for p in task.load_benchmark(str(shared_data / "benchmarks"))}
        mine = [row for row in rows if row["task"] == name]
        found[name] = [(r, task.grade(items[r["bench_id"]], r["generation"])) for r in mine]
    return found


@pytest.mark.parametrize(("name", "total", "of"), [("gsm8k", 783, 1130), ("math500", 130, 500)])
def test_d1_equals_every_verdict_of_the_oracle(
    graded: dict[str, list[tuple[dict[str, Any], Verdict]]], name: str, total: int, of: int
) -> None:
    pairs = graded[name]
    assert [v.d1_correct for _, v in pairs] == [row["d1_correct"] for row, _ in pairs]
    assert (sum(bool(v.d1_correct) for _, v in pairs), len(pairs)) == (total, of)


def test_d1_reads_the_answers_that_the_oracle_read(
    graded: dict[str, list[tuple[dict[str, Any], Verdict]]],
) -> None:
    rows = [row for row, _ in graded["gsm8k"]]
    found = [gsm8k.d1_extract(row["generation"]) for row in rows]
    assert found == [row["d1_extracted"] for row in rows]


def test_strict_equals_math_verify_on_the_last_box(
    graded: dict[str, list[tuple[dict[str, Any], Verdict]]],
) -> None:
    """The oracle has no reference for the two answers with a minus sign; they are right."""
    differing = [
        row["bench_id"]
        for pairs in graded.values()
        for row, verdict in pairs
        if verdict.correct != row["mathverify_boxed"]
    ]
    assert differing == ["gsm8k-test-489", "gsm8k-test-1113"]
    assert sum(verdict.correct for _, verdict in graded["gsm8k"]) == 779 + 2
    assert sum(verdict.correct for _, verdict in graded["math500"]) == 146


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\\boxed{18} then \\boxed{19}", 18.0),
        ("\\boxed{} \\boxed{ ... } \\boxed{7}", 7.0),
        ("\\boxed{43,500}", 43.0),
        ("\\boxed{\\text{about } 12.5 of 20}", None),  # the first brace closes it: no number
        ("\\boxed{about 12.5 of 20}", 12.5),
        ("\\boxed{-3}", -3.0),
        ("\\boxed{1e3}", 1000.0),
        ("\\boxed{8\n}", None),  # not over the end of a line
        ("\\boxed{8 <answer>it is 5 or 6</answer>", 6.0),
        ("<answer> 6 </answer>", 6.0),
        ("<answer>no number</answer>", None),
        ("18", None),
        ("", None),
    ],
)
def test_gsm8k_d1_extract(text: str, wanted: float | None) -> None:
    assert gsm8k.d1_extract(text) == wanted


def test_gsm8k_d1_cannot_read_a_reference_with_a_sign() -> None:
    assert gsm8k.d1_is_correct("\\boxed{10}", "10")
    assert not gsm8k.d1_is_correct("\\boxed{-10}", "-10")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("\\tfrac12", "\\frac{1}{2}"),
        ("\\dfrac1{72}", "\\frac{1}{72}"),
        ("0.5", "1/2"),
        (".5", "\\frac12"),
        ("-3/4", "\\frac{-3}{4}"),
        ("x=5", "5"),
        ("\\sqrt3", "\\sqrt{3}"),
        ("\\left( 1, 2 \\right)", "(1,2)"),
        ("90^\\circ", "90"),
        ("30^{\\circ}", "30"),
        ("5 \\text{ cm}", "5"),
        ("50\\%", "50"),
        ("\\$12", "12"),
        ("1\\!000", "1000"),
        ("3\\\\4", "3\\4"),
        ("(1, .5)", "(1,0.5)"),
        ("{.5}", "{0.5}"),
        ("a\nb", "ab"),
    ],
)
def test_notations_of_one_answer_are_one(first: str, second: str) -> None:
    assert math500.normalized(first) == math500.normalized(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("3/24", "1/8"),  # strings are compared, not numbers
        ("abc=5", "5"),
        ("a=b=5", "5"),
        ("\\frac", "\\frac12"),
        ("\\sqrt", "3"),
        ("5\\text{ a }\\text{ b}", "5"),
    ],
)
def test_what_d1_does_not_take_for_the_same(first: str, second: str) -> None:
    assert not math500.d1_is_correct(f"\\boxed{{{first}}}", second)


@pytest.mark.parametrize("text", ["a/b", "07/2", "\\frac", "\\sqrt", "\\text{ a}\\text{ b}"])
def test_where_the_normalisation_fails_strings_are_compared(text: str) -> None:
    with pytest.raises(ValueError, match="normalized: wanted"):
        math500.normalized(text)
    assert math500.d1_is_correct(f"\\boxed{{{text}}}", text)


def test_a_fraction_of_one_character_stops_the_bracing_of_all() -> None:
    assert math500.normalized("\\frac12+\\frac1") == "\\frac12+\\frac1"


@pytest.mark.parametrize(
    ("text", "extracted", "is_right"),
    [
        ("\\boxed{1} \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", True),
        ("\\boxed{0.5} \\boxed{1", "0.5", True),
        ("<answer>1/2</answer>", "1/2", True),
        ("<answer>\\boxed{1/2\n</answer>", "1/2", True),
        ("\\boxed{1}<|endoftext|>\\boxed{1/2}", "1", False),
        ("1/2", None, False),
        ("\\boxed{}", "", False),
    ],
)
def test_strict_reads_the_last_box_or_the_answer(
    text: str, extracted: str | None, is_right: bool
) -> None:
    problem = Problem("math500", "m", {"question": "?", "answer": "\\frac12"})
    verdict = get_task("math500").grade(problem, text)
    assert (verdict.extracted, verdict.correct) == (extracted, is_right)


BIG = 300_000
HOSTILE = [
    "\\boxed{" * BIG,
    "\\boxed{" * BIG + "}" * BIG,
    "\\boxed{" + "9" * BIG + "}",
    "<answer>" + "9 " * BIG + "</answer>",
    "<answer>" * BIG,
    "\\boxed{" + "\\frac" * BIG + "}",
    "\\boxed{" + "1/" * BIG + "}",
    "\\boxed{" + "9" * BIG + "/" + "9" * BIG + "}",
    "\\boxed{" + "\\sqrt" * BIG + "3}",
    "\\boxed " * BIG,
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_d1_verdicts_on_megabytes_are_quick(number: int) -> None:
    started = time.perf_counter()
    assert not gsm8k.d1_is_correct(HOSTILE[number], "7")
    assert not math500.d1_is_correct(HOSTILE[number], "7")
    # Linear time takes well below 1 s; quadratic time on 300,000 characters takes minutes.
    assert time.perf_counter() - started < 10


MARKS = ["\\boxed{", "\\boxed ", "{", "}", "$", "<answer>", "</answer>", "<|endoftext|>", "\n"]
NOTATION = [
    "\\frac",
    "\\tfrac",
    "\\sqrt",
    "/",
    "=",
    ".",
    "\\text{ ",
    "\\%",
    "\\left",
    "1",
    "-2",
    "x",
]
TEXTS = st.lists(st.sampled_from(MARKS + NOTATION) | st.text(max_size=3), max_size=25).map("".join)


@given(text=TEXTS)
@settings(max_examples=300, deadline=None)
def test_d1_verdicts_are_total(text: str) -> None:
    assert gsm8k.d1_is_correct(text, "1") in (True, False)
    assert math500.d1_is_correct(text, text) in (True, False)
