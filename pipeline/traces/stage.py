"""Stage traces, seen from the driver: plan the shards, generate the missing ones, commit.

Each shard has some questions with all their samples; it is written once the last of them is there.
"""

import dataclasses
import logging
import time
from collections import Counter
from typing import Any

import pyarrow as pa

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, identity
from pipeline.errors import ConfigError, DataError
from pipeline.layout import layout, shard_name
from pipeline.models import weights_fingerprint
from pipeline.progress import Progress
from pipeline.traces.choose import choose
from pipeline.traces.generate import end_ids, generate, question_ids, sample_seed
from pipeline.traces.questions import Question, read_questions
from pipeline.vllm_engine import require_vllm

logger = logging.getLogger(__name__)

_TRACE_FIELDS = [
    ("question_id", pa.string()),
    ("source", pa.string()),
    ("question", pa.string()),
    ("reasoning", pa.string()),
    ("answer", pa.string()),
    ("solution", pa.string()),
    ("sample", pa.int32()),
    ("seed", pa.int64()),
    ("num_tokens", pa.int32()),
]
TRACE_SCHEMA = pa.schema(_TRACE_FIELDS)
SAMPLE_SCHEMA = pa.schema(
    [
        *_TRACE_FIELDS,
        ("generation", pa.string()),
        ("is_finished", pa.bool_()),
        ("is_correct", pa.bool_()),
        ("reason", pa.string()),
    ]
)
SAMPLES = "samples"
_CPUS_BESIDE = 2
"""For what is before and behind the engines, which hold theirs for good."""
_TOO_LONG = "question_too_long"
_LISTED = 20
"""Rows without a question that are named in the log."""


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``traces/<name>``, the missing shards of it, or say that it is done."""
    section = config.traces
    questions, refused, _ = _checked_questions(config)
    wanted = _wanted(config, questions)
    folder = layout(config).traces(section.name)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"traces: {folder} is already finished; --overwrite repeats it")
        return
    require_vllm("stage traces")
    plan = plan_shards(questions, section.num_shards)
    cpus = section.num_actors * section.num_cpus + _CPUS_BESIDE
    gpus = section.num_actors * section.num_gpus
    with ray_session(cpus=cpus, gpus=gpus):
        missing = list(range(len(plan)))
        if artifacts.start_or_continue(folder, wanted.recipe, overwrite=overwrite):
            missing = [shard for shard in missing if not _is_whole(folder, shard)]
            logger.info("continuing missing=%d of=%d", len(missing), len(plan))
        seconds = _generate(config, folder, plan, missing)
    manifest = _manifest(folder, wanted, len(plan), refused)
    manifest.facts["model"] = section.model
    manifest.facts["seconds"] = round(seconds, 1)
    artifacts.commit(folder, manifest)
    facts = manifest.facts
    print(
        f"traces: {manifest.num_rows} of {facts['num_samples']} samples kept, "
        f"{100 * facts['share_correct']:.1f} % of all are right; {facts['num_solved']} of "
        f"{facts['num_questions']} questions have a trace; left out {manifest.rejected} -> "
        f"{folder}\n"
        f"traces: as a source of prepare: kind files, path {folder}/part-*.parquet, prompt_column "
        f"question, reasoning_column reasoning, response_column answer"
    )


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    section = config.traces
    if not section.model or not section.sources:
        return f"traces: nothing yet; {_NEEDED}"
    questions, refused, longest = _checked_questions(config)
    return (
        f"traces: {len(questions)} questions (left out {refused}), {section.num_samples} "
        f"samples each of at most {section.max_tokens} tokens, the longest prompt has {longest} "
        f"-> {layout(config).traces(section.name)}"
    )


_NEEDED = "traces.model names a model, and [[traces.sources]] where the questions are from"


def _checked_questions(config: RunConfig) -> tuple[list[Question], dict[str, int], int]:
    """The questions that leave room for a sample, the others by reason, tokens of the longest."""
    section = config.traces
    if not section.model or not section.sources:
        raise ConfigError(f"traces: wanted a model and questions, got none; {_NEEDED}")
    if section.max_tokens >= section.max_model_len:
        raise ConfigError(
            f"traces.max_tokens: wanted fewer than traces.max_model_len {section.max_model_len}, "
            f"got {section.max_tokens}"
        )
    room = section.max_model_len - section.max_tokens
    questions, longest = [], 0
    found, unreadable = read_questions(config)
    refused = Counter(row.reason for row in unreadable)
    for question in found:
        length = len(question_ids(section.model, question.turn))
        if length > room:
            refused[_TOO_LONG] += 1
        else:
            questions.append(question)
            longest = max(longest, length)
    for row in unreadable[:_LISTED]:
        logger.warning("left out %s row=%d %s: %s", row.file, row.position, row.reason, row.detail)
    if not questions:
        raise DataError(
            f"traces.sources: wanted at least one question of at most {room} tokens "
            f"(traces.max_model_len less traces.max_tokens), got none; left out {dict(refused)}"
        )
    return questions, dict(refused), longest


def _wanted(config: RunConfig, questions: list[Question]) -> Manifest:
    section = config.traces
    settings = identity(section)
    for name in ("name", "model", "sources"):  # known by the weights and the questions
        settings.pop(name)
    inputs = {
        "weights": weights_fingerprint(section.model),
        "questions": artifacts.fingerprint([dataclasses.asdict(q) for q in questions]),
        # Vocabulary, template and ends, by what they make of a question.
        "prompt": artifacts.fingerprint(
            [question_ids(section.model, questions[0].turn), end_ids(section.model)]
        ),
    }
    return Manifest(stage="traces", config={"traces": settings}, inputs=inputs)


def plan_shards(questions: list[Question], num_shards: int) -> list[list[Question]]:
    """The questions cut into at most ``num_shards`` even runs."""
    count = min(num_shards, len(questions))
    bounds = [len(questions) * k // count for k in range(count + 1)]
    return [questions[bounds[k] : bounds[k + 1]] for k in range(count)]


def _generate(
    config: RunConfig,
    folder: str,
    plan: list[list[Question]],
    missing: list[int],
) -> float:
    """Write the missing shards, each as soon as it is complete; seconds it took."""
    section = config.traces
    started = time.monotonic()
    rows = [
        dataclasses.asdict(question)
        | {
            "shard": shard,
            "sample": sample,
            "seed": sample_seed(section.seed, question.question_id, sample),
        }
        for shard in missing
        for question in plan[shard]
        for sample in range(section.num_samples)
    ]
    due = Counter(row["shard"] for row in rows)
    found: dict[int, list[dict[str, Any]]] = {}
    with Progress("traces", "samples", len(rows)) as progress:
        for row in generate(rows, section, len(missing)) if rows else ():
            shard = int(row["shard"])
            found.setdefault(shard, []).append(row)
            progress.add(1)
            if len(found[shard]) == due[shard]:
                write_shard(config, folder, shard, found.pop(shard))
    return time.monotonic() - started


def write_shard(config: RunConfig, folder: str, shard: int, samples: list[dict[str, Any]]) -> None:
    """Choose among the samples of one shard; all of them are kept under ``samples/``."""
    by_question: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(samples, key=lambda row: int(row["sample"])):
        by_question.setdefault(row["question_id"], []).append(row)
    rows = [
        row | {"reason": reason}
        for group in by_question.values()
        for row, reason in zip(group, choose(group, config.traces), strict=True)
    ]
    kept = [row for row in rows if not row["reason"]]
    name = shard_name(shard)
    for path, found, schema in (
        (storage.join(folder, SAMPLES, name), rows, SAMPLE_SCHEMA),
        (storage.join(folder, name), kept, TRACE_SCHEMA),
    ):
        values = [{column: row[column] for column in schema.names} for row in found]
        storage.write_table(path, pa.Table.from_pylist(values, schema=schema))


def _is_whole(folder: str, shard: int) -> bool:
    name = shard_name(shard)
    samples = storage.read_if_whole(storage.join(folder, SAMPLES, name), SAMPLE_SCHEMA)
    traces = storage.read_if_whole(storage.join(folder, name), TRACE_SCHEMA)
    return samples is not None and traces is not None


def _manifest(folder: str, wanted: Manifest, num_shards: int, refused: dict[str, int]) -> Manifest:
    files, reasons = {}, Counter(refused)
    num_rows = num_samples = num_correct = num_tokens = 0
    asked, solved = set(), set()
    for shard in range(num_shards):
        name = shard_name(shard)
        table = storage.read_table(storage.join(folder, SAMPLES, name))
        kept = storage.read_table(storage.join(folder, name))
        files[name] = artifacts.file_entry(storage.join(folder, name), num_rows=len(kept))
        samples = f"{SAMPLES}/{name}"
        files[samples] = artifacts.file_entry(storage.join(folder, samples))
        reasons.update(reason for reason in table["reason"].to_pylist() if reason)
        num_rows, num_samples = num_rows + len(kept), num_samples + len(table)
        num_correct += table["is_correct"].to_pylist().count(True)
        num_tokens += sum(table["num_tokens"].to_pylist())
        asked.update(table["question_id"].to_pylist())
        solved.update(kept["question_id"].to_pylist())
    facts = {
        "num_samples": num_samples,
        "num_questions": len(asked),
        "num_solved": len(solved),
        "num_tokens": num_tokens,
        "share_correct": num_correct / max(1, num_samples),
    }
    return dataclasses.replace(
        wanted, files=files, num_rows=num_rows, rejected=dict(sorted(reasons.items())), facts=facts
    )
