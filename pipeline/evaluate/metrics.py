"""What an evaluation says: accuracies with intervals, speed, and where the checkpoint is from."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from pipeline import artifacts, protocols
from pipeline.config import RunConfig
from pipeline.evaluate.plan import Items, Target
from pipeline.layout import layout
from pipeline.statistics import accuracy_interval

METRICS_FILE = "metrics.json"


def evaluation_metrics(
    config: RunConfig, target: Target, items: Items, rows: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """``metrics.json`` of ``target``, whose ``rows`` are those of each task in their order."""
    section = config.evaluate
    facts = training_facts(target.checkpoint)
    facts["is_of_this_run"] = target.checkpoint == layout(config).checkpoint(facts["path"])
    flags = {task: protocols.decoding(section, task, target.gen_length).flags() for task in items}
    common = {"engine": section.engine, "precision": section.precision, "seed": section.seed}
    return {
        "name": target.name,
        "checkpoint": facts,
        "sampler": next(iter(flags.values())) | common | {"interval": section.interval},
        "tasks": {
            task: _task_metrics(section.interval, problems, rows[task]) | {"flags": flags[task]}
            for task, problems in items.items()
        },
    }


def _task_metrics(
    interval: str, problems: Sequence[Any], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    from weft.tasks import get_task

    definition = get_task(problems[0].task)
    correct = [row["correct"] for row in rows]
    found = accuracy_interval(correct, interval)
    seconds = sum(row["seconds"] for row in rows)
    d1 = [row["d1_correct"] for row in rows if row["d1_correct"] is not None]
    return {
        "num_items": len(rows),
        "accuracy": sum(correct) / len(correct),
        "interval": [found.low, found.high],
        "headline": definition.headline,
        "d1_accuracy": sum(d1) / len(d1) if d1 else None,
        "num_timed_out": sum(row["timed_out"] for row in rows),
        "nfe": _mean(rows, "nfe"),
        "whole_passes": _mean(rows, "whole_passes"),
        "seconds": seconds,
        "latency": _mean(rows, "latency"),
        "num_tokens": _mean(rows, "num_tokens"),
        "tokens_per_second": sum(row["num_tokens"] for row in rows) / max(seconds, 1e-9),
        **definition.aggregate(problems, [_verdict(row) for row in rows]),
    }


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows) / len(rows))


def _verdict(row: Mapping[str, Any]) -> Any:
    from weft.tasks.base import Verdict

    return Verdict(
        extracted=row["extracted"],
        d1_correct=row["d1_correct"],
        strict_correct=row["correct"],
        details=json.loads(row["details"]),
        timed_out=row["timed_out"],
    )


def training_facts(checkpoint: str) -> dict[str, Any]:
    """The method behind a checkpoint of ours, for the result rows; of any other, its name.

    ``recipe_but_seed`` is the same for trainings that differ in nothing but ``run.seed``.
    """
    try:
        manifest = artifacts.read_manifest(checkpoint)
    except (OSError, ValueError):
        manifest = None
    if manifest is None or manifest.stage != "train" or "run" not in manifest.config:
        return {"path": PurePosixPath(checkpoint).name}
    config = manifest.config
    unseeded = {name: values for name, values in config.items() if name != "run"}
    return {
        "path": PurePosixPath(checkpoint).name,
        "seed": config["run"]["seed"],
        "rates": config["rates"],
        "objective": config["objective"],
        "eos_policy": config["data"]["eos_policy"],
        "tail_max": config["data"]["tail_max"],
        "recipe": manifest.recipe,
        "recipe_but_seed": dataclasses.replace(manifest, config=unseeded).recipe,
    }


def format_metrics(metrics: dict[str, Any]) -> str:
    """The table of one evaluation."""
    from pipeline.tables import METRIC_COLUMNS, metric_rows, text_table

    return text_table(METRIC_COLUMNS, metric_rows(metrics))
