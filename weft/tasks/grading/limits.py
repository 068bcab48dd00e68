"""Grading within limits of time: what a grader cannot decide soon is a verdict of its own."""

import logging
import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pebble import ProcessExpired, ProcessPool

from weft.tasks import get_task
from weft.tasks.base import Problem, Verdict

logger = logging.getLogger(__name__)

_SECOND_CHANCE = 5
"""So many times longer the second try may take: a busy machine should change no verdict."""


class Graders:
    """A context manager that grades, where a task needs it in a process that can be stopped.

    That process is started when it is first needed, and anew after each timeout.
    """

    def __init__(self, *, timeout_s: float = 1.0) -> None:
        """``timeout_s``: seconds for one text; one that needs more gets a second, longer try."""
        if timeout_s <= 0:
            raise ValueError(f"Graders: wanted a positive timeout_s, got {timeout_s}")
        self._timeout_s = timeout_s
        self._pool: ProcessPool | None = None

    def __enter__(self) -> "Graders":
        """Nothing is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the process."""
        self.close()

    def close(self) -> None:
        """Stop the process; grading starts another one."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None

    def grade(self, problems: Sequence[Problem], texts: Sequence[str]) -> list[Verdict]:
        """One verdict a text, in order; ``timed_out`` where both tries took too long."""
        gradings = [self.start(*pair) for pair in zip(problems, texts, strict=True)]
        return [grading.result() for grading in gradings]

    def start(self, problem: Problem, text: str) -> "Grading":
        """Begin to grade ``text``, and do not wait where that happens in the other process."""
        task = get_task(problem.task)
        if not task.grades_apart:
            return Grading(self, problem, text, None, task.grade(problem, text))
        return Grading(self, problem, text, self._schedule(problem, text, self._timeout_s))

    def second_chance(self, problem: Problem, text: str) -> Verdict:
        """The verdict after more time; ``timed_out`` if that is too little as well."""
        try:
            longer = _SECOND_CHANCE * self._timeout_s
            verdict: Verdict = self._schedule(problem, text, longer).result()
        except (TimeoutError, ProcessExpired):
            return get_task(problem.task).verdict_of_timeout(problem, text)
        return verdict

    def _schedule(self, problem: Problem, text: str, timeout_s: float) -> Any:
        limit = None if get_task(problem.task).has_own_limits else timeout_s
        return self._running_pool().schedule(_grade, args=(problem, text), timeout=limit)

    def _running_pool(self) -> ProcessPool:
        if self._pool is None:
            # A fork would take over the threads and the GPU of a process that holds a model.
            self._pool = ProcessPool(
                max_workers=1,
                initializer=_warm_up,
                context=multiprocessing.get_context("spawn"),
            )
        return self._pool


@dataclass
class Grading:
    """A verdict that is there, or on its way."""

    graders: Graders
    problem: Problem
    text: str
    future: Any
    verdict: Verdict | None = None

    @property
    def is_done(self) -> bool:
        """Whether ``result`` need not wait, but for a second chance."""
        return self.future is None or bool(self.future.done())

    def result(self) -> Verdict:
        """The verdict; of a text that no grader can read one that says it timed out."""
        if self.verdict is None:
            try:
                self.verdict = self.future.result()
            except (TimeoutError, ProcessExpired):
                self.verdict = self.graders.second_chance(self.problem, self.text)
            except Exception:  # of a library, over some text: the next one must be graded
                logger.exception("item=%s could not be graded", self.problem.item_id)
                task = get_task(self.problem.task)
                self.verdict = task.verdict_of_timeout(self.problem, self.text)
        assert self.verdict is not None
        return self.verdict


def _warm_up() -> None:
    """Import what grading needs: that takes longer than most grading, and no text is to blame."""
    import math_verify  # noqa: F401

    from weft.tasks import math_answers

    # Its own alarm would call a text wrong that nobody has judged.
    math_answers.TIMEOUT_S = None


def _grade(problem: Problem, text: str) -> Verdict:
    return get_task(problem.task).grade(problem, text)
