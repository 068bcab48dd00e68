"""The task MBPP: a Python function from a sentence and its tests.

``Problem.data``: ``text`` (what is wanted), ``tests`` (assertions) and ``setup`` (what they need).
"""

from collections.abc import Mapping
from typing import Any

from weft.tasks.base import HubName, Problem
from weft.tasks.benchmarks import require_string
from weft.tasks.programs import CodeTask


class MbppTask(CodeTask):
    """Short programs; the published file has two sets of columns, of which either is read."""

    name = "mbpp"
    benchmark_file = "mbpp_test.jsonl"
    hub = HubName("google-research-datasets/mbpp", "test", "sanitized")

    def request(self, problem: Problem) -> str:
        """What is wanted, and the tests to pass, since these alone say the function's name."""
        tests = "\n".join(problem.data["tests"])
        return (
            f"{problem.data['text']}\n\nYour Python code should pass these tests:\n\n{tests}\n\n"
            "Answer with the whole code in one code block."
        )

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item; its sentence is called ``prompt``, or ``text`` in the larger published file."""
        tests = row.get("test_list")
        if not isinstance(tests, list) or not tests or not all(isinstance(t, str) for t in tests):
            raise ValueError(f"wanted assertions as a list 'test_list', got {tests!r}")
        imports = row.get("test_imports") or [row.get("test_setup_code") or ""]
        data = {
            "text": require_string(row, "prompt" if "prompt" in row else "text"),
            "tests": tests,
            "setup": "\n".join(map(str, imports)),
        }
        task_id = row.get("task_id")
        item_id = f"mbpp-{task_id}" if task_id is not None else require_string(row, "id")
        return Problem(self.name, item_id, data)

    def program(self, problem: Problem, code: str) -> str:
        """The code between what the tests need and the tests."""
        return "\n".join([problem.data["setup"], code, "", *problem.data["tests"]])


TASK = MbppTask()
