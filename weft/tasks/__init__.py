"""The tasks by name. A task's module is imported when it is asked for; none needs torch."""

import functools
import importlib

from weft.suggest import did_you_mean
from weft.tasks.base import PuzzleTask, Task

_PUZZLES = {
    "countdown": "weft.tasks.countdown_task",
    "sudoku": "weft.tasks.sudoku_task",
}
_CODE = {
    "humaneval": "weft.tasks.humaneval_task",
    "mbpp": "weft.tasks.mbpp_task",
}
_MODULES = {
    **_PUZZLES,
    "gsm8k": "weft.tasks.gsm8k_task",
    "math500": "weft.tasks.math500_task",
    **_CODE,
}
"""Name -> the module whose ``TASK`` it is."""

TASK_NAMES = tuple(_MODULES)
PUZZLE_NAMES = tuple(_PUZZLES)
"""Tasks whose problems are generated."""
CODE_NAMES = tuple(_CODE)
"""Tasks whose graders run what a model wrote."""


@functools.cache
def get_task(name: str) -> Task:
    """The task called ``name``; ValueError naming the known ones for any other."""
    if name not in _MODULES:
        raise ValueError(
            f"get_task: wanted one of {', '.join(TASK_NAMES)}, got {name!r}"
            f"{did_you_mean(name, TASK_NAMES)}"
        )
    task: Task = importlib.import_module(_MODULES[name]).TASK
    return task


def get_puzzle(name: str) -> PuzzleTask:
    """The task called ``name``; ValueError unless its problems are generated."""
    task = get_task(name)
    if not isinstance(task, PuzzleTask):
        raise ValueError(
            f"get_puzzle: wanted a task whose problems are generated ({', '.join(PUZZLE_NAMES)}), "
            f"got {name!r}"
        )
    return task
