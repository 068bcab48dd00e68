"""The problems that an evaluation runs on: a benchmark's items, or the generators' held-out set."""

from typing import Any

from pipeline import protocols
from pipeline.config import EvaluateSection
from pipeline.errors import DataError
from pipeline.sources.hub import hub_errors

# Any seed will do: whether a problem is held out is decided by its content, not by its seed.
_HELD_OUT_SEED = 20_250_920
_D1_CHOICE = {"countdown": 256, "sudoku": 256}
"""How many items of these benchmarks d1 draws; of others it takes all in order."""


def load_items(section: EvaluateSection, task: str) -> list[Any]:
    """Problems of ``task``: of the benchmark in ``data_dir`` or on the hub, else generated ones.

    DataError where the benchmark cannot be read.
    """
    from weft.tasks import get_task

    definition = get_task(task)
    if section.data_dir:
        try:
            problems = definition.load_benchmark(section.data_dir)
        except (OSError, ValueError) as error:
            raise DataError(f"evaluate.data_dir: {error}") from error
    elif definition.hub is None:
        problems = held_out_problems(task, section.skip_items + section.num_items)
        return problems[section.skip_items :]
    else:
        problems = _from_hub(definition)
    if protocols.takes_d1_items(section) and task in _D1_CHOICE:
        problems = _d1_choice(problems, _D1_CHOICE[task])
    return problems[: section.benchmark_items or None]


def _d1_choice(problems: list[Any], count: int) -> list[Any]:
    from weft.tasks.benchmarks import d1_selection

    if len(problems) < count:
        raise DataError(
            f"evaluate.data_dir: {problems[0].task}: wanted at least the {count} items that the "
            f"protocol d1 draws, got {len(problems)}; use the benchmark file as published"
        )
    positions = d1_selection(len(problems), count)
    return [problems[position] for position in positions]


def _from_hub(task: Any) -> list[Any]:
    import datasets

    where = task.hub
    with hub_errors(
        f"{where.path} (split {where.split}), the benchmark {task.name}",
        f"without the hub, put {task.benchmark_file} into a folder and give that as "
        f"evaluate.data_dir",
    ):
        rows = datasets.load_dataset(where.path, where.subset or None, split=where.split)
        named = ({"id": f"{task.name}-test-{n}", **row} for n, row in enumerate(rows))
        return [task.parse_row(row) for row in named]


def held_out_problems(task: str, count: int) -> list[Any]:
    """The first ``count`` distinct generated problems that training never sees."""
    from weft.tasks import get_puzzle
    from weft.tasks.fingerprints import fingerprint, is_benchmark_item, is_held_out

    definition = get_puzzle(task)
    found: dict[str, Any] = {}
    index = 0
    while len(found) < count:
        problem = definition.generate(seed=_HELD_OUT_SEED, index=index)
        if is_held_out(problem) and not is_benchmark_item(problem):
            found.setdefault(fingerprint(problem), problem)
        index += 1
    return list(found.values())
