"""Graders that may take long are stopped, and their texts get a verdict all the same."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from weft.tasks import get_task
from weft.tasks.base import Problem
from weft.tasks.grading import limits
from weft.tasks.grading.limits import Graders

MATH = Problem("math500", "m", {"question": "?", "answer": "\\frac12"})
GSM8K = Problem("gsm8k", "g", {"question": "?", "answer": "4"})
SUDOKU = Problem(
    "sudoku", "s", {"puzzle": "0" * 16, "solution": "3142243142131324", "n_solutions": 288}
)
CODE = Problem("mbpp", "b", {"text": "f", "tests": ["assert f(1) == 1"], "setup": ""})


@pytest.fixture(scope="module")
def graders() -> Iterator[Graders]:
    # A third of the usual time: these tests wait for it to be over.
    with Graders(timeout_s=0.3) as found:
        found.grade([GSM8K], ["\\boxed{4}"])  # starts the process
        yield found


def test_verdicts_are_those_of_the_task_in_order(graders: Graders) -> None:
    problems = [MATH, GSM8K, SUDOKU, MATH]
    texts = ["\\boxed{0.5}", "\\boxed{5}", "<answer>3142243142131324</answer>", "\\boxed{2}"]
    pairs = list(zip(problems, texts, strict=True))
    assert graders.grade(problems, texts) == [get_task(p.task).grade(p, t) for p, t in pairs]


@pytest.mark.parametrize(
    "text",
    ["\\boxed{99^{98^{97}}}", "\\boxed{9999999999!!}", "\\boxed{(123456789)!}"],
)
def test_what_a_library_never_ends_over_is_a_timeout(graders: Graders, text: str) -> None:
    (verdict,) = graders.grade([MATH], [text])
    assert verdict.timed_out
    assert not verdict.correct
    assert verdict.extracted == text[7:-1]


def test_programs_have_limits_of_their_own_and_leave_nothing(graders: Graders) -> None:
    folders = set(Path(tempfile.gettempdir()).glob("weft-sandbox-*"))
    slow = "import time\ntime.sleep(2)\ndef f(x):\n    return x"
    texts = [f"```python\n{slow}\n```", "```python\ndef f(x):\n    return 2\n```"]
    right, wrong = graders.grade([CODE, CODE], texts)
    assert right.correct
    assert not wrong.correct
    assert not right.timed_out
    assert set(Path(tempfile.gettempdir()).glob("weft-sandbox-*")) == folders


@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{99**98**97}",
        "\\boxed{" + "(" * 1_000_000 + "}",
        "\\boxed{" + "[" * 500_000 + "]" * 500_000 + "}",
        "\\boxed{" + "\\frac{1}{" * 150 + "2" + "}" * 150 + "}",
        "\\boxed{" + "\\sqrt{" * 300 + "2" + "}" * 300 + "}",
        "\\boxed{" + "{" * 900 + "1" + "}" * 900 + "}",
        "\\boxed{\\sum_{k=1}^{10^{12}} \\frac{1}{k^k}}",
    ],
    ids=range(7),
)
def test_every_text_has_a_verdict_in_time(graders: Graders, text: str) -> None:
    started = time.perf_counter()
    (verdict,) = graders.grade([MATH], [text])
    # 0.3 s, a second chance of five times that, and two processes started on a busy machine.
    assert time.perf_counter() - started < 30
    assert not verdict.correct
    assert verdict.d1_correct is False


def test_a_grader_that_never_ends_is_a_verdict_of_its_own() -> None:
    problem = Problem("math500", "m", {"question": "?", "answer": "1"})
    with Graders(timeout_s=0.05) as graders:
        graders.second_chance(problem, "\\boxed{1}")  # starts the process
        # 50 ms, and 250 ms, are too little for these.
        text = "\\boxed{" + "+".join(f"\\sqrt{{{n}}}" for n in range(2, 250)) + "}"
        first, second = graders.grade([problem] * 2, [text, "\\boxed{1}"])
    assert first.timed_out
    assert not first.correct
    assert first.d1_correct is False
    assert second.correct
    assert second.d1_correct


def test_a_grader_whose_process_dies_is_a_timeout(
    graders: Graders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_grade", _die)
    (verdict,) = graders.grade([MATH], ["\\boxed{1/2}"])
    assert verdict.timed_out
    monkeypatch.undo()
    (verdict,) = graders.grade([MATH], ["\\boxed{1/2}"])
    assert verdict.correct


def _die(_problem: Problem, _text: str) -> None:
    os._exit(9)


PIECES = st.sampled_from(["\\frac", "\\sqrt", "{", "}", "(", ")", "^", "1", "x", "!", ",", "\\pi"])


@given(text=st.lists(PIECES | st.text(max_size=2), max_size=20).map("".join))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_expression_has_a_verdict(graders: Graders, text: str) -> None:
    (verdict,) = graders.grade([MATH], [f"\\boxed{{{text}}}"])
    assert verdict.correct in (True, False)


def test_a_limit_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive timeout_s, got 0"):
        Graders(timeout_s=0)
