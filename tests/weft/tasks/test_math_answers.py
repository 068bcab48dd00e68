"""Answers are equal by what they mean."""

import pytest

from weft.tasks.math_answers import is_same_answer


@pytest.mark.parametrize(
    ("answer", "solution"),
    [
        ("\\boxed{\\frac{3}{24}}", "1/8"),
        ("so the first is \\boxed{7} and the last \\boxed{0.5}", "\\frac12"),
        ("The answer is 4.", "4"),
        ("43,500", "43500"),
        ("\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}", "$(3,\\pi/2)$"),
        ("\\text{(B)}", "B"),
    ],
)
def test_equal(answer: str, solution: str) -> None:
    assert is_same_answer(answer, solution)


@pytest.mark.parametrize(
    ("answer", "solution"),
    [("4", "5"), ("\\boxed{1/3}", "0.33"), ("", "5"), ("I do not know", "7"), ("7", "")],
)
def test_not_equal(answer: str, solution: str) -> None:
    assert not is_same_answer(answer, solution)


@pytest.mark.parametrize("answer", ["99**98**97", "\\boxed{" * 3000, "(" * 1_000_000])
def test_answers_that_are_none_end(answer: str) -> None:
    assert not is_same_answer(answer, "1")
