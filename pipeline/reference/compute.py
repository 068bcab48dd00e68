"""An entropies artifact from prepared shards and a reference model, on Ray Data actors.

Each prepared shard becomes one entropy shard with the same rows in the same order. The shard is the
unit of resuming: it is written whole under its final name, and only those that are missing are run.
"""

import dataclasses
import functools
import logging
import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.errors import CheckpointError
from pipeline.layout import layout
from pipeline.progress import Progress
from pipeline.reference.autoregressive import (
    BOUNDED_SCHEMA,
    autoregressive_entropies,
    open_reference_engine,
)
from pipeline.reference.entropies import ENTROPY_SCHEMA, open_reference, shard_entropies
from pipeline.shard_tasks import Workers, run_shards
from pipeline.tokenizers import own_tokens
from pipeline.vllm_engine import engine_environment

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EntropyJob:
    """Whose entropies of the run's prepared data are computed, and where they are written."""

    config: RunConfig
    checkpoint: str
    folder: str


def compute(
    job: EntropyJob, wanted: Manifest, prepared: Manifest, *, overwrite: bool = False
) -> Manifest:
    """Compute the shards that are missing and commit the artifact; needs a Ray that is started.

    Raises CheckpointError once more than ``reference.max_rejected`` rows have no finite entropies.
    """
    started = time.monotonic()
    missing = prepared.shards
    if artifacts.start_or_continue(job.folder, wanted.recipe, overwrite=overwrite):
        missing = [name for name in prepared.shards if not _is_whole(job, name)]
        logger.info("continuing missing=%d of=%d", len(missing), len(prepared.shards))
    num_tokens, seconds = _run_shards(job, prepared, missing)
    manifest = _manifest(job.folder, wanted, prepared)
    rejected = manifest.rejected.get("not_finite", 0)
    _check_rejected(job, rejected)
    manifest.facts.update(
        seconds=round(time.monotonic() - started, 1),
        num_tokens_this_run=num_tokens,
        tokens_per_second=round(num_tokens / seconds, 1) if seconds else 0.0,
    )
    artifacts.commit(job.folder, manifest)
    return manifest


def _is_whole(job: EntropyJob, name: str) -> bool:
    """Whether an interrupted run left shard ``name``, undamaged and of the same examples."""
    examples = storage.read_table(storage.join(layout(job.config).prepared, name))
    found = storage.read_if_whole(storage.join(job.folder, name), _schema(job.config))
    return found is not None and bool(found["example_id"].equals(examples["example_id"]))


def _schema(config: RunConfig) -> pa.Schema:
    is_bounded = config.reference.estimator == "autoregressive"
    return BOUNDED_SCHEMA if is_bounded else ENTROPY_SCHEMA


def _run_shards(job: EntropyJob, prepared: Manifest, names: list[str]) -> tuple[int, float]:
    """Compute the shards on actors: tokens that went through the model, and seconds they took.

    The clock starts with the first result's own work: starting Ray and loading are left out.
    """
    section = job.config.reference
    workers = Workers(section.num_cpus, section.num_gpus, section.num_actors)
    rows = [{"shard": name} for name in names]
    # Shards are even in rows, so their share of the tokens is near enough for an estimate.
    share = sum(prepared.files[name].num_rows for name in names) / max(1, prepared.num_rows)
    total = int(share * (prepared.facts["num_tokens"] + section.tail * prepared.num_rows))
    num_tokens = num_rejected = 0
    starts: list[float] = []
    ends: list[float] = []
    with Progress("reference", "tokens", total) as progress:
        for row in run_shards(functools.partial(ReferenceActor, job), rows, workers):
            num_tokens += int(row["num_tokens"])
            num_rejected += int(row["num_rejected"])
            starts.append(float(row["started"]))
            ends.append(float(row["ended"]))
            progress.add(int(row["num_tokens"]))
            _check_rejected(job, num_rejected)
    return num_tokens, max(ends) - min(starts) if ends else 0.0


def _check_rejected(job: EntropyJob, count: int) -> None:
    limit = job.config.reference.max_rejected
    if count > limit:
        raise CheckpointError(
            f"{job.checkpoint}: wanted finite entropies, got others for {count} examples, more "
            f"than reference.max_rejected {limit}; its weights are broken, or too large for "
            f"reference.precision {job.config.reference.precision}"
        )


class ReferenceActor:
    """Holds one replica of the reference model; called with the name of a shard."""

    def __init__(self, job: EntropyJob) -> None:
        """Load the model once, onto the GPU if the actor has one."""
        self.job = job
        section = job.config.reference
        if section.estimator == "autoregressive":
            self.unknown = own_tokens(job.config.model.path, job.checkpoint)
            self.model = _open_engine(job)
            return
        self.model = open_reference(section, job.checkpoint)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Compute and write one shard; how many tokens went through the model, and when."""
        started, name = time.time(), str(row["shard"])
        table = storage.read_table(storage.join(layout(self.job.config).prepared, name))
        found = self._entropies(table)
        storage.write_table(storage.join(self.job.folder, name), found)
        tail = self.job.config.reference.tail
        return {
            "shard": name,
            "num_tokens": _num_tokens(table) + tail * len(table),
            "num_rejected": found.column("entropy").null_count,
            "started": started,
            "ended": time.time(),
        }

    def _entropies(self, table: pa.Table) -> pa.Table:
        if self.job.config.reference.estimator == "autoregressive":
            return autoregressive_entropies(self.model, table, self.job.config, self.unknown)
        return shard_entropies(self.model, table, self.job.config)


def _open_engine(job: EntropyJob) -> Any:
    for name, value in engine_environment(job.config.reference.num_gpus).items():
        os.environ.setdefault(name, value)
    prepared = artifacts.require(layout(job.config).prepared, "prepare", hint="run jobs/prepare.py")
    return open_reference_engine(job.config, job.checkpoint, int(prepared.facts["longest"]))


def _num_tokens(table: pa.Table) -> int:
    columns = ("prompt_ids", "response_ids")
    return sum(len(table.column(name).combine_chunks().flatten()) for name in columns)


def _manifest(folder: str, wanted: Manifest, prepared: Manifest) -> Manifest:
    files = {}
    rejected, sums = 0, Counter[str]()
    for name in prepared.shards:
        path = storage.join(folder, name)
        files[name] = artifacts.file_entry(path, num_rows=prepared.files[name].num_rows)
        table = storage.read_table(path)
        rejected += table.column("entropy").null_count
        sums.update(_sums(table))
    files[artifacts.RECIPE] = artifacts.file_entry(storage.join(folder, artifacts.RECIPE))
    if not sums["tokens"]:
        raise CheckpointError(
            f"{folder}: not one example has finite entropies; the reference model's weights are "
            f"broken, or too large for reference.precision"
        )
    return dataclasses.replace(
        wanted,
        files=files,
        num_rows=prepared.num_rows,
        rejected={"not_finite": rejected} if rejected else {},
        facts={f"mean_{name}": sums[name] / sums["tokens"] for name in sums if name != "tokens"},
    )


def _sums(table: pa.Table) -> dict[str, float]:
    """Sum of the entropies of all response tokens, and of their bounds where there are some."""
    columns = [name for name in table.column_names if name.startswith("entropy")]
    values = {name: table.column(name).combine_chunks().flatten() for name in columns}
    totals = {name: float(pc.sum(found).as_py() or 0.0) for name, found in values.items()}
    return totals | {"tokens": len(values["entropy"])}
