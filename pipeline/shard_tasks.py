"""Work cut into shards and spread over the cluster by Ray Data: tasks, or actors that hold a model.

What a user can mend comes back as a value and is raised on the driver: raised in a worker, Ray
would wrap it, and of an actor that fails to start only text would be left.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline import errors
from pipeline.errors import PipelineError

ShardTask = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Workers:
    """What a shard runs on: tasks, or that many actors; CPUs and GPUs of each."""

    num_cpus: float
    num_gpus: float = 0.0
    num_actors: int | None = None


def run_shards(
    make_task: Callable[[], ShardTask], rows: list[dict[str, Any]], workers: Workers
) -> Iterator[dict[str, Any]]:
    """What the task makes of each of ``rows``, as they get done; rows and results are JSON values.

    ``make_task`` runs once in every worker. Raises the first PipelineError of any of them.
    """
    if not rows:
        return
    import ray
    from ray.data import ActorPoolStrategy

    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    resources = {"num_cpus": workers.num_cpus, "num_gpus": workers.num_gpus or None}
    if workers.num_actors is None:
        results = dataset.map(_Guarded(make_task), **resources)
    else:
        results = dataset.map(
            _Guarded,
            fn_constructor_args=(make_task,),
            compute=ActorPoolStrategy(size=min(workers.num_actors, len(rows))),
            **resources,
        )
    for row in results.iter_rows():
        if row["error"]:
            kind, message = json.loads(row["error"])
            raise getattr(errors, kind)(message)
        yield json.loads(row["result"])


class _Guarded:
    """A task made at its first call, whose PipelineErrors are values."""

    def __init__(self, make_task: Callable[[], ShardTask]) -> None:
        self.make_task = make_task
        self.task: ShardTask | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            self.task = self.task or self.make_task()
            return {"result": json.dumps(self.task(row)), "error": ""}
        except PipelineError as error:
            return {"result": "", "error": json.dumps([type(error).__name__, str(error)])}
