"""HumanEval and MBPP: what is run, and what running it cannot do."""

import os
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weft.tasks import get_task, sandbox
from weft.tasks.base import Problem
from weft.tasks.programs import extract_code
from weft.tasks.sandbox import run_program

DEEP = 3000
ADD = Problem(
    "humaneval",
    "h",
    {
        "prompt": 'from typing import List\n\ndef add(x: List[int]) -> int:\n    """Sum."""\n',
        "test": "def check(candidate):\n    assert candidate([1, 2]) == 3\n",
        "entry_point": "add",
    },
)
DOUBLE = Problem(
    "mbpp", "b", {"text": "Double it.", "tests": ["assert double(2) == 4"], "setup": "import math"}
)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Here:\n```python\nx = 1\n```\nand so on", "x = 1"),
        ("```\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\n```\n```python\ny = 2\n```<|eot_id|>", "y = 2"),
        ("```python\nx = 1\n```\n```python\ny =", "x = 1"),
        ("```python\nx = 1\ny = 2", "x = 1\ny = 2"),
        ("    return sum(x)\n", "    return sum(x)"),
        ("```x```", "x"),
        ("```python3\nx = 1\n```", "x = 1"),
        ("```\ndef f(): ...\n```\nIt prints\n```\n3\n```", "def f(): ..."),
        ("<|endoftext|>```x```", ""),
        ("", ""),
    ],
)
def test_extract_code(text: str, code: str) -> None:
    assert extract_code(text) == code


@given(text=st.lists(st.sampled_from(["```", "python", "\n", "x"]) | st.text(max_size=3)))
@settings(max_examples=200, deadline=None)
def test_extract_code_is_total(text: list[str]) -> None:
    code = extract_code("".join(text))
    assert "```" not in code
    assert code in "".join(text)


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        ("```python\ndef add(x: List[int]) -> int:\n    return sum(x)\n```", True),
        ("    return sum(x)\n", True),
        ("```python\ndef add(x):\n    return 4\n```", False),
        ("```python\ndef other(x):\n    return sum(x)\n```", False),
        ("```python\ndef add(x)\n```", False),
        ("```python\nimport sys; sys.exit(0)\n```", False),  # leaves before the tests
        ("```python\nimport os; os._exit(0)\n```", False),
    ],
)
def test_humaneval_passes_whole_functions_and_bodies(text: str, is_right: bool) -> None:
    verdict = get_task("humaneval").grade(ADD, text)
    assert verdict.correct is is_right
    assert verdict.d1_correct is None


def test_mbpp_runs_all_tests() -> None:
    task = get_task("mbpp")
    assert task.grade(
        DOUBLE, "```python\ndef double(x):\n    return math.prod([2, x])\n```"
    ).correct
    assert not task.grade(DOUBLE, "```python\ndef double(x):\n    return x\n```").correct
    assert task.grade(DOUBLE, "<|endoftext|>").extracted is None
    future = "from __future__ import annotations\n"
    assert run_program(f"{future}def f(x: Unknown): ...", timeout_s=20).passed


def test_a_program_that_loops_is_stopped() -> None:
    started = time.perf_counter()
    outcome = run_program("while True: pass", timeout_s=1)
    assert outcome.timed_out
    assert not outcome.passed
    assert time.perf_counter() - started < 20


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("x = bytearray(4 << 30)", "MemoryError"),
        ("open('x', 'wb').write(bytes(1 << 24))", "File too large|SIGXFSZ|^$"),
        ("print(undefined)", "NameError"),
        ("import torch", "ModuleNotFoundError"),
    ],
)
def test_a_program_beyond_its_limits_fails(program: str, message: str) -> None:
    import re

    outcome = run_program(program, timeout_s=20)
    assert not outcome.passed
    assert re.search(message, outcome.output)


@pytest.mark.skipif(os.getuid() == 0, reason="root may start as many processes as it likes")
def test_a_program_starts_no_other() -> None:
    assert not run_program("import os; os.fork()", timeout_s=20).passed


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("a program of another user than root starts none")
    mark = tmp_path / "mark"
    program = f"import os, time\nif not os.fork():\n    time.sleep(2)\n    open({str(mark)!r}, 'w')"
    run_program(program, timeout_s=20)
    time.sleep(3)
    assert not mark.exists()


def test_a_program_sees_no_environment_and_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "123")
    outcome = run_program("import os; print(sorted(os.environ))", timeout_s=20)
    assert outcome.passed
    assert "SECRET" not in outcome.output


def test_folders_deeper_than_python_recurses_are_deleted(tmp_path: Path) -> None:
    steps = f"for _ in range({DEEP}):\n    os.mkdir('d')\n    os.chdir('d')"
    program = f"import os\nprint(os.getcwd())\n{steps}"
    outcome = run_program(program, timeout_s=20)
    assert outcome.passed
    assert not Path(outcome.output.split()[0]).exists()


def test_output_without_end_is_cut() -> None:
    outcome = run_program("for _ in range(100_000): print('x' * 9)", timeout_s=20)
    assert outcome.passed
    assert len(outcome.output) <= sandbox._MOST_OUTPUT
