"""The task HumanEval: complete a Python function from its signature and docstring.

``Problem.data``: ``prompt`` (the function's head), ``test`` and ``entry_point``, as published.
"""

import re
from collections.abc import Mapping
from typing import Any

from weft.tasks.base import HubName, Problem
from weft.tasks.benchmarks import require_string
from weft.tasks.programs import CodeTask


class HumanEvalTask(CodeTask):
    """164 functions to complete."""

    name = "humaneval"
    benchmark_file = "HumanEval.jsonl"
    hub = HubName("openai/openai_humaneval", "test")

    def request(self, problem: Problem) -> str:
        """The function's head in a code block, and what to do with it."""
        return (
            "Complete the following Python function. Answer with the whole function in one code "
            f"block.\n\n```python\n{problem.data['prompt'].rstrip()}\n```"
        )

    def parse_row(self, row: Mapping[str, Any]) -> Problem:
        """The item under its published columns."""
        data = {key: require_string(row, key) for key in ("prompt", "test", "entry_point")}
        return Problem(self.name, require_string(row, "task_id"), data)

    def program(self, problem: Problem, code: str) -> str:
        """The function behind the imports of its head; or the head and a body that goes on."""
        head, name = problem.data["prompt"], problem.data["entry_point"]
        is_whole = re.search(rf"^(?:async )?def {re.escape(name)}\b", code, flags=re.MULTILINE)
        # A whole function may leave out what its head imports or defines before it.
        before = head[: head.rfind(f"def {name}")] if is_whole else head
        return f"{before}\n{code}\n\n{problem.data['test']}\n\ncheck({name})"


TASK = HumanEvalTask()
