import json
import subprocess
import sys
from pathlib import Path

import pytest

from weft.tasks import PUZZLE_NAMES, TASK_NAMES, get_puzzle, get_task
from weft.tasks.base import Problem, PuzzleTask
from weft.tasks.prompts import Prompt

PROBLEMS = {
    "countdown": Problem("countdown", "c", {"numbers": [30, 100, 93], "target": 23}),
    "sudoku": Problem("sudoku", "s", {"puzzle": "3102200002100320"}),
    "gsm8k": Problem("gsm8k", "g", {"question": "the question", "answer": "1"}),
    "math500": Problem("math500", "m", {"question": "the problem", "answer": "1"}),
}
CODE = {
    "humaneval": Problem("humaneval", "h", {"prompt": "def f(x):\n    pass\n"}),
    "mbpp": Problem("mbpp", "b", {"text": "Write f.", "tests": ["assert f(1) == 1"]}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_d1_prompt_is_the_protocol_character_for_character(name: str, shared_data: Path) -> None:
    protocol = json.loads((shared_data / "protocol_d1.json").read_text(encoding="utf-8"))
    prompt = get_task(name).prompt(PROBLEMS[name], "d1")
    assert prompt.text == protocol["system"][name] + "\n\n" + protocol["question"][name]
    assert prompt.prefill == protocol["prefill"]
    assert get_task(name).prompt(PROBLEMS[name], "llada") == Prompt(prompt.text)


@pytest.mark.parametrize("name", CODE)
@pytest.mark.parametrize("style", ["compact", "d1", "llada"])
def test_code_tasks_have_one_prompt(name: str, style: str) -> None:
    prompt = get_task(name).prompt(CODE[name], style)
    assert "def f(x)" in prompt.text or "assert f(1) == 1" in prompt.text
    assert prompt == get_task(name).prompt(CODE[name], "compact")
    assert not prompt.prefill


def test_compact_prompts_are_short_and_open_nothing() -> None:
    texts = {name: get_task(name).prompt(PROBLEMS[name], "compact") for name in PROBLEMS}
    assert texts["countdown"].text == "countdown  30 100  93 =  23"
    assert texts["sudoku"].text == "sudoku 3102200002100320"
    assert {prompt.prefill for prompt in texts.values()} == {""}


@pytest.mark.parametrize("problem", [PROBLEMS["sudoku"], CODE["mbpp"]])
def test_prompt_of_an_unknown_style_is_refused(problem: Problem) -> None:
    with pytest.raises(ValueError, match="compact or d1 or llada, got 'd2'"):
        get_task(problem.task).prompt(problem, "d2")


def test_get_task_names_the_nearest_task() -> None:
    with pytest.raises(
        ValueError, match=r"countdown, sudoku, .*, got 'sodoku' \(did you mean sudoku"
    ):
        get_task("sodoku")


def test_registry_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from weft.tasks import TASK_NAMES, get_task;"
        "assert 'numpy' not in sys.modules;"
        "from weft.tasks import PUZZLE_NAMES, get_puzzle;"
        "[get_task(name) for name in TASK_NAMES];"
        "[get_puzzle(name).generate(0, 0) for name in PUZZLE_NAMES];"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_puzzles_are_generated() -> None:
    assert {name for name in TASK_NAMES if isinstance(get_task(name), PuzzleTask)} == {
        *PUZZLE_NAMES
    }
    with pytest.raises(ValueError, match=r"generated \(countdown, sudoku\), got 'gsm8k'"):
        get_puzzle("gsm8k")


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_generate_depends_on_seed_and_index_alone(name: str) -> None:
    task = get_puzzle(name)
    backwards = [task.generate(seed=3, index=index) for index in (2, 1, 0)]
    assert backwards[::-1] == [task.generate(seed=3, index=index) for index in range(3)]
    assert task.generate(seed=4, index=0).data != backwards[-1].data
    assert len({problem.item_id for problem in backwards}) == 3


@pytest.mark.parametrize("name", PUZZLE_NAMES)
def test_response_is_right_by_both_graders(name: str) -> None:
    task = get_puzzle(name)
    for index in range(20):
        problem = task.generate(seed=1, index=index)
        response = task.response(problem)
        assert response.startswith("<reasoning>")
        verdict = task.grade(problem, response + "<|endoftext|>" * 3)
        assert verdict.correct
        assert verdict.d1_correct
        json.dumps(problem.data)
