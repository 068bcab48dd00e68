import json
import subprocess
import sys
from pathlib import Path

import pytest

from weft.tasks import TASK_NAMES, get_task
from weft.tasks.base import Problem

PROBLEMS = {
    "countdown": Problem("countdown", "c", {"numbers": [30, 100, 93], "target": 23}),
    "sudoku": Problem("sudoku", "s", {"puzzle": "3102200002100320"}),
}


@pytest.mark.parametrize("name", TASK_NAMES)
def test_d1_prompt_is_the_protocol_character_for_character(name: str, shared_data: Path) -> None:
    protocol = json.loads((shared_data / "protocol_d1.json").read_text(encoding="utf-8"))
    prompt = get_task(name).prompt(PROBLEMS[name], "d1")
    assert prompt.text == protocol["system"][name] + "\n\n" + protocol["question"][name]
    assert prompt.prefill == protocol["prefill"]


def test_compact_prompts_are_short_and_open_nothing() -> None:
    texts = {name: get_task(name).prompt(PROBLEMS[name], "compact") for name in TASK_NAMES}
    assert texts["countdown"].text == "countdown  30 100  93 =  23"
    assert texts["sudoku"].text == "sudoku 3102200002100320"
    assert {prompt.prefill for prompt in texts.values()} == {""}


def test_prompt_of_an_unknown_style_is_refused() -> None:
    with pytest.raises(ValueError, match="compact or d1, got 'd2'"):
        get_task("sudoku").prompt(PROBLEMS["sudoku"], "d2")


def test_get_task_names_the_nearest_task() -> None:
    with pytest.raises(ValueError, match=r"countdown, sudoku, got 'sodoku' \(did you mean sudoku"):
        get_task("sodoku")


def test_registry_needs_neither_torch_nor_ray() -> None:
    code = (
        "import sys; from weft.tasks import TASK_NAMES, get_task;"
        "assert 'numpy' not in sys.modules;"
        "[get_task(name).generate(0, 0) for name in TASK_NAMES];"
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", TASK_NAMES)
def test_generate_depends_on_seed_and_index_alone(name: str) -> None:
    task = get_task(name)
    backwards = [task.generate(seed=3, index=index) for index in (2, 1, 0)]
    assert backwards[::-1] == [task.generate(seed=3, index=index) for index in range(3)]
    assert task.generate(seed=4, index=0).data != backwards[-1].data
    assert len({problem.item_id for problem in backwards}) == 3


@pytest.mark.parametrize("name", TASK_NAMES)
def test_response_is_right_by_both_graders(name: str) -> None:
    task = get_task(name)
    for index in range(20):
        problem = task.generate(seed=1, index=index)
        response = task.response(problem)
        assert response.startswith("<reasoning>")
        verdict = task.grade(problem, response + "<|endoftext|>" * 3)
        assert verdict.correct
        assert verdict.d1_correct
        json.dumps(problem.data)
