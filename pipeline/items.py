"""The problems that an evaluation runs on: a benchmark's files, or the generators' held-out set."""

from typing import Any

from pipeline.config import EvaluateSection
from pipeline.errors import DataError

# Any seed will do: whether a problem is held out is decided by its content, not by its seed.
_HELD_OUT_SEED = 20_250_920


def load_items(section: EvaluateSection, task: str) -> list[Any]:
    """Problems of ``task``: generated ones, or those of the benchmark file in ``data_dir``.

    DataError when the file cannot be read.
    """
    if not section.data_dir:
        return held_out_problems(task, section.num_items)
    from weft.tasks import get_task

    try:
        problems: list[Any] = get_task(task).load_benchmark(section.data_dir)
    except (OSError, ValueError) as error:
        raise DataError(f"evaluate.data_dir: {error}") from error
    return problems[: section.benchmark_items or None]


def held_out_problems(task: str, count: int) -> list[Any]:
    """The first ``count`` distinct generated problems that training never sees."""
    from weft.tasks import get_task
    from weft.tasks.fingerprints import fingerprint, is_benchmark_item, is_held_out

    definition = get_task(task)
    found: dict[str, Any] = {}
    index = 0
    while len(found) < count:
        problem = definition.generate(seed=_HELD_OUT_SEED, index=index)
        if is_held_out(problem) and not is_benchmark_item(problem):
            found.setdefault(fingerprint(problem), problem)
        index += 1
    return list(found.values())
