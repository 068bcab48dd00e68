"""Grading within limits of time: what a grader cannot decide soon is a verdict of its own."""

import logging
import multiprocessing
from collections.abc import Sequence
from types import TracebackType

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
        return [self._grade(*pair) for pair in zip(problems, texts, strict=True)]

    def _grade(self, problem: Problem, text: str) -> Verdict:
        task = get_task(problem.task)
        if not task.needs_limits:
            return task.grade(problem, text)
        for timeout in (self._timeout_s, _SECOND_CHANCE * self._timeout_s):
            future = self._running_pool().schedule(_grade, args=(problem, text), timeout=timeout)
            try:
                verdict: Verdict = future.result()
            except (TimeoutError, ProcessExpired):
                continue
            except Exception:  # of a library, over some text: the next one must be graded
                logger.exception("item=%s could not be graded", problem.item_id)
                break
            return verdict
        return task.verdict_of_timeout(problem, text)

    def _running_pool(self) -> ProcessPool:
        if self._pool is None:
            # A fork would take over the threads and the GPU of a process that holds a model.
            self._pool = ProcessPool(
                max_workers=1,
                initializer=_warm_up,
                context=multiprocessing.get_context("spawn"),
            )
        return self._pool


def _warm_up() -> None:
    """Import what grading needs: that takes longer than most grading, and no text is to blame."""
    import math_verify  # noqa: F401

    from weft.tasks import math_answers

    # Its own alarm would call a text wrong that nobody has judged.
    math_answers.TIMEOUT_S = None


def _grade(problem: Problem, text: str) -> Verdict:
    return get_task(problem.task).grade(problem, text)
