"""The tasks by name. A task's module is imported when it is asked for; none needs torch."""

import functools
import importlib

from weft.suggest import did_you_mean
from weft.tasks.base import Task

_MODULES = {
    "countdown": "weft.tasks.countdown_task",
    "sudoku": "weft.tasks.sudoku_task",
}
"""Name -> the module whose ``TASK`` it is."""

TASK_NAMES = tuple(_MODULES)


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
