"""Stage evaluate: every checkpoint at every length, its items spread over all actors.

A row is written as soon as its item is done, so that a stage that is started again decodes only
what is missing, whatever the number of actors or the size of a batch.
"""

import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline import artifacts, protocols, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.evaluate.actor import EvaluateActor
from pipeline.evaluate.items import load_items
from pipeline.evaluate.metrics import METRICS_FILE, evaluation_metrics, format_metrics
from pipeline.evaluate.plan import (
    Items,
    Target,
    checkpoint_path,
    checkpoints,
    plan_shards,
    plan_targets,
    prompt_lengths,
)
from pipeline.evaluate.rows import PARTS, PartReader, write_rows
from pipeline.models import check_cache, check_context
from pipeline.progress import Progress
from pipeline.shard_tasks import Workers, run_shards
from pipeline.vllm_engine import require_vllm

logger = logging.getLogger(__name__)

_POLL_S = 5.0
_BYTES = {"float32": 4, "bfloat16": 2}


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``evaluations/<name>`` for each checkpoint and length, or say that it is done."""
    items = _load_all(config)
    _check_models(config, items)
    targets = plan_targets(config, items)
    is_open = [not artifacts.is_done(t.folder, t.wanted, overwrite=overwrite) for t in targets]
    missing = [target for target, wanted in zip(targets, is_open, strict=True) if wanted]
    started = time.monotonic()
    collected = _evaluate(config, missing, items, overwrite)
    seconds = time.monotonic() - started
    for target, is_missing in zip(targets, is_open, strict=True):
        if is_missing:
            _finish(config, target, items, collected[target.name], seconds)
        else:
            print(f"evaluate: {target.folder} is already finished; --overwrite repeats it")
        metrics = storage.read_json(storage.join(target.folder, METRICS_FILE))
        print(format_metrics(metrics))
    if missing:
        num_items = len(missing) * sum(map(len, items.values()))
        folders = ", ".join(target.folder for target in missing)
        print(f"evaluate: {num_items} items in {seconds:.0f} s -> {folders}")


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The evaluations, with what its manifest must say."""
    return [(t.folder, t.wanted) for t in plan_targets(config, _load_all(config))]


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    items = _load_all(config)
    longest = _check_models(config, items)
    targets = plan_targets(config, items)
    tasks = ", ".join(f"{task} ({len(problems)} items)" for task, problems in items.items())
    lines = [
        f"evaluate: {tasks}, {_passes(config, target)}, {config.evaluate.batch_size} items a "
        f"batch, {config.evaluate.num_actors} actors -> {target.folder}"
        for target in targets
    ]
    return "\n".join([*lines, *_memory(config, longest)])


def _passes(config: RunConfig, target: Target) -> str:
    section = config.evaluate
    if section.engine == "vllm":
        return f"at most {target.gen_length} tokens an item by vLLM"
    settings = protocols.decoding(section, section.tasks[0], target.gen_length).settings
    most = target.gen_length if section.threshold > 0 else settings.steps
    is_exact = not section.threshold and not section.early_stop
    bound = "" if is_exact else "at most "
    return f"{bound}{most * (2 if section.cfg_scale > 0 else 1)} forward passes an item"


def _memory(config: RunConfig, longest: int) -> list[str]:
    """Parts of the memory of one actor, for the longest canvas."""
    from pipeline.train.estimate import describe_inference
    from weft.sampling.predict import CHUNK_MIB

    section = config.evaluate
    if section.engine == "vllm":
        return []
    length = longest + max(protocols.gen_lengths(section))
    return [
        describe_inference(
            checkpoint_path(config, wanted),
            num_tokens=section.batch_size * length,
            num_rows=section.batch_size * max(protocols.gen_lengths(section)),
            head_chunk_mib=4 * CHUNK_MIB,
            bytes_of_weight=_BYTES[section.precision],
            cached_tokens=section.batch_size * length * (section.cache != "none"),
        )
        for wanted in checkpoints(config)
    ]


def _load_all(config: RunConfig) -> dict[str, list[Any]]:
    return {task: load_items(config.evaluate, task) for task in config.evaluate.tasks}


def _check_models(config: RunConfig, items: Items) -> int:
    """Tokens of the longest prompt, refused where a canvas no longer fits behind it."""
    section = config.evaluate
    if section.engine == "vllm":
        require_vllm("evaluate.engine vllm")
    longest = 0
    for wanted in checkpoints(config):
        path = checkpoint_path(config, wanted)
        longest = max(longest, *map(max, prompt_lengths(section, path, items).values()))
        canvas = max(protocols.gen_lengths(section))
        if section.engine == "denoiser":
            what = f"evaluate.gen_lengths {canvas} behind the longest prompt of {longest}"
            check_context(path, longest + canvas, what)
            if section.cache != "none":
                check_cache(path, "evaluate.cache")
    return longest


Rows = dict[str, dict[str, dict[str, Any]]]
"""Task -> item id -> row."""


def _evaluate(
    config: RunConfig, targets: Sequence[Target], items: Items, overwrite: bool
) -> dict[str, Rows]:
    """The rows of each of ``targets``, those included that an interrupted run left."""
    if not targets:
        return {}
    section = config.evaluate
    cpus, gpus = section.num_actors * section.num_cpus, section.num_actors * section.num_gpus
    with ray_session(cpus=cpus, gpus=gpus):
        collector = _Collector(targets, items)
        for target in targets:
            artifacts.start_or_continue(target.folder, target.wanted.recipe, overwrite=overwrite)
        collector.poll()
        # Lengths of the canvas share their prompts.
        lengths = {p: prompt_lengths(section, p, items) for p in {t.checkpoint for t in targets}}
        shards = [
            shard
            for t in targets
            for shard in plan_shards(section, t, collector.missing(t), lengths[t.checkpoint])
        ]
        total = sum(len(shard.positions) for shard in shards)
        if collector.num_rows:
            logger.info("continuing items_there=%d items_missing=%d", collector.num_rows, total)
        longest = max(max(found) for tasks in lengths.values() for found in tasks.values())
        make_actor = functools.partial(
            EvaluateActor, section, longest + max(protocols.gen_lengths(section))
        )
        workers = Workers(section.num_cpus, section.num_gpus, section.num_actors)
        rows = [dataclasses.asdict(shard) for shard in shards]
        with Progress("evaluate", "items", total) as progress, _polling(collector, progress):
            for _ in run_shards(make_actor, rows, workers):
                pass
        collector.poll()
        return collector.rows


class _Collector:
    """Reads what the actors have written, of all evaluations."""

    def __init__(self, targets: Sequence[Target], items: Items) -> None:
        self._readers = {target.name: PartReader(target.folder) for target in targets}
        self._items = items
        self.rows: dict[str, Rows] = {t.name: {task: {} for task in items} for t in targets}

    @property
    def num_rows(self) -> int:
        return sum(len(rows) for tasks in self.rows.values() for rows in tasks.values())

    @property
    def accuracy(self) -> float:
        """Of all rows so far."""
        correct = sum(
            bool(row["correct"])
            for tasks in self.rows.values()
            for rows in tasks.values()
            for row in rows.values()
        )
        return correct / max(1, self.num_rows)

    def poll(self) -> int:
        """How many rows are new; of an item that was decoded twice the first counts."""
        before = self.num_rows
        for name, reader in self._readers.items():
            for row in reader.poll():
                self.rows[name][row["task"]].setdefault(row["item_id"], row)
        return self.num_rows - before

    def missing(self, target: Target) -> dict[str, list[int]]:
        """Positions of the items without a row, by task."""
        there = self.rows[target.name]
        return {
            task: [k for k, p in enumerate(problems) if p.item_id not in there[task]]
            for task, problems in self._items.items()
        }


@contextmanager
def _polling(collector: _Collector, progress: Progress) -> Iterator[None]:
    """Show, while the block runs, how many rows there are and how many are right."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(_POLL_S):
            count = collector.poll()
            progress.note = f"accuracy_so_far={collector.accuracy:.3f}"
            progress.add(count)

    watcher = threading.Thread(target=watch, name="evaluate-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _finish(config: RunConfig, target: Target, items: Items, found: Rows, seconds: float) -> None:
    """Make the rows of ``target`` an artifact."""
    rows = {task: [found[task][p.item_id] for p in problems] for task, problems in items.items()}
    timed_out = sum(row["timed_out"] for task in items for row in rows[task])
    if timed_out:
        logger.warning(
            "evaluation=%s verdicts_timed_out=%d count as wrong; evaluate.grader_timeout_s is %g",
            *(target.name, timed_out, config.evaluate.grader_timeout_s),
        )
    names = [write_rows(target.folder, task, rows[task]) for task in items]
    metrics = evaluation_metrics(config, target, items, rows)
    storage.write_json(storage.join(target.folder, METRICS_FILE), metrics)
    files = {
        name: artifacts.file_entry(storage.join(target.folder, name))
        for name in (*names, METRICS_FILE, artifacts.RECIPE)
    }
    manifest: Manifest = dataclasses.replace(
        target.wanted,
        files=files,
        num_rows=sum(map(len, rows.values())),
        facts={"seconds": round(seconds, 1)},
    )
    artifacts.commit(target.folder, manifest)
    storage.remove(storage.join(target.folder, PARTS))
