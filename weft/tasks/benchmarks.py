"""Readers of published test files: JSON Lines, one item a line."""

import json
from collections.abc import Mapping
from typing import Any

import fsspec
import numpy as np

from weft.tasks.base import Problem, Task

_D1_SELECTION_SEED = 42
_REMEDY = "use the benchmark file as published, or mend this one"


def load_benchmark(task: Task, data_dir: str) -> list[Problem]:
    """Items of ``task``'s test file in ``data_dir`` (any fsspec address), in the file's order.

    Raises ValueError for a file that is missing, unreadable or empty, for a malformed line and for
    an item id that occurs twice: it names file and line, what was wanted, what was there.
    """
    path = f"{str(data_dir).rstrip('/')}/{task.benchmark_file}"
    problems: dict[str, Problem] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        try:
            row = {"id": f"{task.name}-test-{number - 1}", **_parse_object(line)}
            problem = task.parse_row(row)
            if problem.item_id in problems:
                raise ValueError(f"wanted an id of its own, got {problem.item_id!r} again")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}; {_REMEDY}") from error
        problems[problem.item_id] = problem
    if not problems:
        raise ValueError(f"{path}: wanted at least one line of JSON, got an empty file; {_REMEDY}")
    return list(problems.values())


def _read_lines(path: str) -> list[bytes]:
    try:
        with fsspec.open(path, "rb") as file:
            content: bytes = file.read()
    except (OSError, ImportError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(
            f"{path}: wanted a readable file of benchmark items, got: {reason}; "
            f"give the folder that holds it as data_dir"
        ) from error
    return content.splitlines()


def _parse_object(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"wanted a JSON object, got {line[:80]!r} ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"wanted a JSON object, got {line[:80]!r}")
    return row


def require_string(row: Mapping[str, Any], key: str) -> str:
    """The string that is not empty under ``key``; ValueError otherwise."""
    value = _require(row, key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"wanted a string that is not empty as {key!r}, got {value!r}")
    return value


def require_integer(row: Mapping[str, Any], key: str, *, least: int) -> int:
    """The whole number under ``key``, at least ``least``; ValueError otherwise."""
    value = _require(row, key)
    if type(value) is not int or value < least:
        raise ValueError(f"wanted a whole number of at least {least} as {key!r}, got {value!r}")
    return value


def _require(row: Mapping[str, Any], key: str) -> Any:
    if key not in row:
        raise ValueError(f"wanted a column {key!r}, got the columns {', '.join(sorted(row))}")
    return row[key]


def d1_selection(num_items: int, count: int) -> list[int]:
    """Positions of the ``count`` items out of ``num_items`` that d1 evaluates, in its order.

    Equals ``numpy.random.seed(42); numpy.random.choice(num_items, count, replace=False)`` without
    touching the global state. Raises ValueError when ``count`` exceeds ``num_items``.
    """
    if not 0 <= count <= num_items:
        raise ValueError(f"d1_selection: wanted at most {num_items} items, got {count}")
    rng = np.random.RandomState(_D1_SELECTION_SEED)
    return [int(position) for position in rng.choice(num_items, count, replace=False)]
