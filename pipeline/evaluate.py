"""Stage evaluate: prompts -> decoding -> grades -> accuracies, on Ray Data actors.

Items are cut into shards of one task each; a shard is written whole under its final name, so that a
stage that is started again decodes only what is missing.
"""

import dataclasses
import functools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, identity
from pipeline.decode_shard import ROW_SCHEMA, EvaluateActor, Shard
from pipeline.errors import DataError
from pipeline.items import load_items
from pipeline.layout import layout
from pipeline.models import check_context, named_checkpoint, weights_fingerprint
from pipeline.shard_tasks import Workers, run_shards
from pipeline.statistics import accuracy_interval
from pipeline.tokenization import prompt_ids
from pipeline.tokenizers import open_tokenizer_at, tokenizer_fingerprints_at

logger = logging.getLogger(__name__)

METRICS_FILE = "metrics.json"
_SHARDS_PER_ACTOR = 2


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``evaluations/<name>``: rows, verdicts and ``metrics.json``; or say that it is done."""
    checkpoint = resolve_checkpoint_name(config)
    folder = layout(config).evaluation(evaluation_name(config))
    items = {task: load_items(config.evaluate, task) for task in config.evaluate.tasks}
    _check_context(config, checkpoint, items)
    wanted = _wanted(config, checkpoint, items)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"evaluate: {folder} is already finished; --overwrite repeats it")
        print(format_metrics(storage.read_json(storage.join(folder, METRICS_FILE))))
        return
    shards = list(plan_shards(config, items))
    started = time.monotonic()
    section = config.evaluate
    with ray_session(
        cpus=section.num_actors * section.num_cpus, gpus=section.num_actors * section.num_gpus
    ):
        missing = _start_or_continue(folder, wanted, shards, items, overwrite)
        _run_shards(config, checkpoint, folder, missing)
    seconds = time.monotonic() - started
    metrics = _metrics(config, folder, shards, items, checkpoint)
    storage.write_json(storage.join(folder, METRICS_FILE), metrics)
    artifacts.commit(folder, _manifest(folder, wanted, shards, seconds))
    print(format_metrics(metrics))
    print(f"evaluate: {sum(map(len, items.values()))} items in {seconds:.0f} s -> {folder}")


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    from pipeline.train.estimate import describe_inference

    section = config.evaluate
    checkpoint = resolve_checkpoint_name(config)
    items = {task: load_items(section, task) for task in section.tasks}
    longest = _check_context(config, checkpoint, items)
    passes = section.steps * (2 if section.cfg_scale > 0 else 1)
    canvas = section.batch_size * (section.gen_length + longest)
    tasks = ", ".join(f"{task} ({len(problems)} items)" for task, problems in items.items())
    return (
        f"evaluate: {tasks}, {passes} forward passes an item, {section.batch_size} items a batch, "
        f"{section.num_actors} actors -> {layout(config).evaluation(evaluation_name(config))}\n"
        f"{describe_inference(checkpoint, num_tokens=canvas, num_rows=canvas)}"
    )


def resolve_checkpoint_name(config: RunConfig) -> str:
    """The checkpoint to evaluate: a name under checkpoints/, a path, or model.path when empty."""
    wanted = config.evaluate.checkpoint
    return named_checkpoint(config, wanted, "evaluate.checkpoint") if wanted else config.model.path


def evaluation_name(config: RunConfig) -> str:
    """Folder name of the evaluation: the checkpoint's, with the data folder's when given."""
    section = config.evaluate
    if section.name:
        return section.name
    name = PurePosixPath(section.checkpoint).name if section.checkpoint else "base"
    return f"{name}-{PurePosixPath(section.data_dir).name}" if section.data_dir else name


def _check_context(config: RunConfig, checkpoint: str, items: dict[str, list[Any]]) -> int:
    """Tokens of the longest prompt, refused where a response no longer fits behind it."""
    longest, section = _longest_prompt(config, checkpoint, items), config.evaluate
    check_context(
        checkpoint,
        longest + section.gen_length,
        f"evaluate.gen_length {section.gen_length} behind the longest prompt of {longest}",
    )
    return longest


def _longest_prompt(config: RunConfig, checkpoint: str, items: dict[str, list[Any]]) -> int:
    from weft.tasks import get_task

    tokenizer, style = open_tokenizer_at(checkpoint), config.evaluate.prompt_style
    prompts = (get_task(task).prompt(p, style) for task in items for p in items[task])
    return max(len(prompt_ids(tokenizer, p.text, p.prefill)) for p in prompts)


def _wanted(config: RunConfig, checkpoint: str, items: dict[str, list[Any]]) -> Manifest:
    section = identity(config.evaluate)
    # The items are known by their content, how many there are included.
    for name in ("checkpoint", "name", "data_dir", "num_items", "benchmark_items"):
        section.pop(name)
    contents = {
        f"items_{task}": artifacts.fingerprint([[p.item_id, p.data] for p in problems])
        for task, problems in items.items()
    }
    inputs = {"weights": weights_fingerprint(checkpoint)} | contents
    return Manifest(
        stage="evaluate",
        config={"evaluate": section},
        inputs=inputs | tokenizer_fingerprints_at(checkpoint),
    )


def plan_shards(config: RunConfig, items: dict[str, list[Any]]) -> Iterator[Shard]:
    """Shards of whole batches, at least two an actor where there are items enough."""
    section = config.evaluate
    for task, problems in items.items():
        slots = section.num_actors * _SHARDS_PER_ACTOR
        size = math.ceil(len(problems) / slots / section.batch_size) * section.batch_size
        for number, start in enumerate(range(0, len(problems), size)):
            yield Shard(f"{task}-{number:05d}.parquet", task, start, start + size)


def _start_or_continue(
    folder: str,
    wanted: Manifest,
    shards: list[Shard],
    items: dict[str, list[Any]],
    overwrite: bool,
) -> list[Shard]:
    # The plan is part of what may be continued: other shards would overlap with those there.
    recipe = artifacts.fingerprint([wanted.recipe, [dataclasses.asdict(s) for s in shards]])
    if not artifacts.start_or_continue(folder, recipe, overwrite=overwrite):
        return shards
    missing = [shard for shard in shards if not _is_whole(folder, shard, items)]
    logger.info("continuing missing=%d of=%d", len(missing), len(shards))
    return missing


def _is_whole(folder: str, shard: Shard, items: dict[str, list[Any]]) -> bool:
    """Whether an interrupted run left ``shard``, undamaged and of the same items."""
    found = storage.read_if_whole(storage.join(folder, shard.name), ROW_SCHEMA)
    wanted = [problem.item_id for problem in items[shard.task][shard.start : shard.stop]]
    return found is not None and found["item_id"].to_pylist() == wanted


def _run_shards(config: RunConfig, checkpoint: str, folder: str, shards: list[Shard]) -> None:
    section = config.evaluate
    workers = Workers(section.num_cpus, section.num_gpus, section.num_actors)
    make_actor = functools.partial(EvaluateActor, config, checkpoint, folder)
    correct = total = 0
    for row in run_shards(make_actor, [dataclasses.asdict(shard) for shard in shards], workers):
        correct, total = correct + row["num_correct"], total + row["num_items"]
        logger.info("shard=%s items=%d accuracy_so_far=%.3f", row["shard"], total, correct / total)


def read_rows(folder: str) -> list[dict[str, Any]]:
    """All rows of an evaluation, in the order of tasks and items."""
    names = [name for name in storage.list_files(folder) if name.endswith(".parquet")]
    return [
        row for name in names for row in storage.read_table(storage.join(folder, name)).to_pylist()
    ]


def _metrics(
    config: RunConfig,
    folder: str,
    shards: list[Shard],
    items: dict[str, list[Any]],
    checkpoint: str,
) -> dict[str, Any]:
    rows = read_rows(folder)
    tasks = {task: _task_metrics(config, task, items[task], rows) for task in items}
    facts = training_facts(checkpoint)
    facts["is_of_this_run"] = checkpoint == layout(config).checkpoint(facts["path"])
    return {
        "name": evaluation_name(config),
        "checkpoint": facts,
        "sampler": identity(config.evaluate),
        "tasks": tasks,
    }


def _task_metrics(
    config: RunConfig, task: str, problems: list[Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    from weft.tasks import get_task

    mine = {row["item_id"]: row for row in rows if row["task"] == task}
    ordered = [mine[problem.item_id] for problem in problems]
    definition = get_task(task)
    verdicts = [
        definition.grade(p, r["generation"]) for p, r in zip(problems, ordered, strict=True)
    ]
    correct = [row["correct"] for row in ordered]
    interval = accuracy_interval(correct, config.evaluate.interval)
    return {
        "num_items": len(ordered),
        "accuracy": sum(correct) / len(correct),
        "interval": [interval.low, interval.high],
        "headline": definition.headline,
        "d1_accuracy": sum(row["d1_correct"] for row in ordered) / len(ordered),
        "nfe": sum(row["nfe"] for row in ordered) / len(ordered),
        "seconds": sum(row["seconds"] for row in ordered),
        **definition.aggregate(problems, verdicts),
    }


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


def _manifest(folder: str, wanted: Manifest, shards: list[Shard], seconds: float) -> Manifest:
    files = {shard.name: artifacts.file_entry(storage.join(folder, shard.name)) for shard in shards}
    for name in (METRICS_FILE, artifacts.RECIPE):
        files[name] = artifacts.file_entry(storage.join(folder, name))
    num_rows = len(read_rows(folder))
    if num_rows == 0:
        raise DataError(f"{folder}: no item was evaluated")
    facts = {"seconds": round(seconds, 1)}
    return dataclasses.replace(wanted, files=files, num_rows=num_rows, facts=facts)


def format_metrics(metrics: dict[str, Any]) -> str:
    """The table of one evaluation."""
    from pipeline.tables import METRIC_COLUMNS, metric_rows, text_table

    return text_table(METRIC_COLUMNS, metric_rows(metrics))
