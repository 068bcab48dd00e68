"""Stage drift: how far training moves the entropies that its rates were frozen with.

For a sample of examples the entropies are computed anew with each checkpoint that a training kept
(``train.export_every``), and with its last one, and compared with those of the reference artifact.
"""

import dataclasses
import functools
import hashlib
import logging
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.errors import ArtifactError, ConfigError
from pipeline.layout import DRIFT_FILE, layout
from pipeline.models import named_checkpoint, require_finished, weights_fingerprint
from pipeline.parquet import row_groups
from pipeline.prepare import require_prepared
from pipeline.prepare.shards import PREPARED_SCHEMA
from pipeline.reference.entropies import ENTROPY_SCHEMA, open_reference, shard_entropies
from pipeline.reference.stage import resources, wanted_manifest
from pipeline.shard_tasks import Workers, run_shards
from pipeline.tables import DRIFT_COLUMNS, drift_rows, text_table
from pipeline.train.exports import export_folder, exported_steps

logger = logging.getLogger(__name__)

_WHICH = "--drift.checkpoint names a training"
_SAMPLE, _FROZEN = "sample.parquet", "frozen.parquet"


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``drift/<checkpoint>``, the missing steps of it, or say that it is done."""
    wanted, steps = _wanted(config)
    folder = _folder(config)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"drift: {folder} is already finished; --overwrite repeats it")
    else:
        cpus, gpus = resources(config)
        with ray_session(cpus=cpus, gpus=gpus):
            _compute(config, wanted, steps, folder, overwrite)
    rows = storage.read_json(storage.join(folder, DRIFT_FILE))
    print(text_table(DRIFT_COLUMNS, drift_rows(rows)))
    print(f"drift: {len(rows)} checkpoints, {rows[0]['num_examples']} examples -> {folder}")


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The drift, with what its manifest must say."""
    return [(_folder(config), _wanted(config)[0])]


def _folder(config: RunConfig) -> str:
    return layout(config).drift(config.drift.checkpoint)


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    if not config.drift.checkpoint:
        return f"drift: nothing yet; {_WHICH}"
    _, steps = _wanted(config)
    shown = ", ".join(str(step) for step in steps)
    return (
        f"drift: entropies of {config.drift.num_examples} examples after steps {shown} "
        f"-> {layout(config).drift(config.drift.checkpoint)}"
    )


def _wanted(config: RunConfig) -> tuple[Manifest, dict[int, str]]:
    """What the artifact must say of itself, and the checkpoints by step."""
    if not config.drift.checkpoint:
        raise ConfigError(f"drift.checkpoint: wanted a checkpoint, got nothing; {_WHICH}")
    if config.reference.estimator == "autoregressive":
        raise ConfigError(
            "reference.estimator: wanted one of the denoiser's own, whose drift can be measured, "
            "got autoregressive"
        )
    prepared = require_prepared(config)
    folder = layout(config).entropies
    frozen = artifacts.require(folder, "reference", hint="run jobs/reference.py")
    if frozen.recipe != wanted_manifest(config, prepared).recipe:
        raise ArtifactError(
            f"{folder}: holds entropies of other data, another model or other [reference] "
            f"settings; run jobs/reference.py --overwrite"
        )
    path = named_checkpoint(config, config.drift.checkpoint, "drift.checkpoint")
    trained = require_finished(path)
    if trained is None:
        raise ArtifactError(f"{path}: wanted a checkpoint that jobs/train.py made")
    steps = {step: export_folder(path, step) for step in exported_steps(path)}
    steps[int(trained.facts["steps"])] = path
    weights = {f"weights_{step}": weights_fingerprint(folder) for step, folder in steps.items()}
    settings = {"num_examples": config.drift.num_examples, "seed": config.data.seed}
    settings |= {name: getattr(config.rates, name) for name in ("gamma", "rate_min", "rate_max")}
    inputs = {"entropies": frozen.content, **weights}
    return Manifest(stage="drift", config={"drift": settings}, inputs=inputs), steps


def _compute(
    config: RunConfig, wanted: Manifest, steps: dict[int, str], folder: str, overwrite: bool
) -> None:
    artifacts.start_or_continue(folder, wanted.recipe, overwrite=overwrite)
    sides = ((_SAMPLE, PREPARED_SCHEMA), (_FROZEN, ENTROPY_SCHEMA))
    if any(storage.read_if_whole(storage.join(folder, f), schema) is None for f, schema in sides):
        _write_sample(config, folder)
    rows = [
        {"step": step, "path": path}
        for step, path in steps.items()
        if storage.read_if_whole(_step_file(folder, step), ENTROPY_SCHEMA) is None
    ]
    section = config.reference
    workers = Workers(section.num_cpus, section.num_gpus, section.num_actors)
    for result in run_shards(functools.partial(_measure, config, folder), rows, workers):
        logger.info("step=%d measured", result["step"])
    frozen = storage.read_table(storage.join(folder, _FROZEN))
    drift = [
        {"step": step} | compare(frozen, storage.read_table(_step_file(folder, step)), config)
        for step in sorted(steps)
    ]
    storage.write_json(storage.join(folder, DRIFT_FILE), drift)
    files = {
        name: artifacts.file_entry(storage.join(folder, name))
        for name in storage.list_files(folder)
        if name != artifacts.MANIFEST
    }
    artifacts.commit(folder, dataclasses.replace(wanted, files=files, num_rows=len(frozen)))


def _step_file(folder: str, step: int) -> str:
    return storage.join(folder, f"step-{step:07d}.parquet")


def _measure(config: RunConfig, folder: str) -> Any:
    """The task of one checkpoint."""

    def measure(row: dict[str, Any]) -> dict[str, Any]:
        denoiser = open_reference(config.reference, str(row["path"]))
        sample = storage.read_table(storage.join(folder, _SAMPLE))
        found = shard_entropies(denoiser, sample, config)
        storage.write_table(_step_file(folder, int(row["step"])), found)
        return row

    return measure


def _write_sample(config: RunConfig, folder: str) -> None:
    """The examples that are compared, and their frozen entropies: those of the lowest hashes."""
    folders = layout(config)
    prepared = artifacts.require(folders.prepared, "prepare", hint="run jobs/prepare.py")
    lots: list[tuple[bytes, str, int]] = []
    for name in prepared.shards:
        ids = storage.read_table(storage.join(folders.prepared, name))["example_id"].to_pylist()
        lots += [(_lot(config, example), name, row) for row, example in enumerate(ids)]
    chosen = sorted(lots)[: config.drift.num_examples]
    for file, source in ((_SAMPLE, folders.prepared), (_FROZEN, folders.entropies)):
        parts = []
        for name in prepared.shards:
            rows = sorted(row for _, shard, row in chosen if shard == name)
            if rows:
                table = pa.concat_tables(row_groups(storage.join(source, name)))
                parts.append(table.take(rows))
        storage.write_table(storage.join(folder, file), pa.concat_tables(parts).combine_chunks())


def _lot(config: RunConfig, example_id: str) -> bytes:
    return hashlib.sha256(f"{config.data.seed}:drift:{example_id}".encode()).digest()


def compare(frozen: pa.Table, found: pa.Table, config: RunConfig) -> dict[str, float]:
    """How entropies differ from the frozen ones of the same tokens; nats, response tokens only.

    - ``entropy``, ``change``, ``absolute_change``: means over tokens.
    - ``rank_correlation``: Spearman's, within each response, averaged over those in which both
      entropies vary: what the order of masking within a sequence depends on.
    - ``pooled_rank_correlation``: of all tokens together.
    - ``rate_change``: mean of ``|r_i' - r_i|``, the relative rates of ``[rates]`` with the scope
      ``sequence``, which are 1 on average.

    Examples without finite entropies on either side are left out; ``num_examples`` are compared.
    """
    from scipy.stats import spearmanr

    pairs = [
        (np.asarray(a, np.float64), np.asarray(b, np.float64))
        for a, b in zip(frozen["entropy"].to_pylist(), found["entropy"].to_pylist(), strict=True)
        if a is not None and b is not None
    ]
    if not pairs:
        raise ArtifactError("drift: not one example has finite entropies on both sides")
    before, after = (np.concatenate(side) for side in zip(*pairs, strict=True))
    within = [spearmanr(a, b).statistic for a, b in pairs if np.ptp(a) > 0 and np.ptp(b) > 0]
    rates = [np.abs(_rates(b, config) - _rates(a, config)) for a, b in pairs]
    return {
        "num_examples": len(pairs),
        "entropy": float(after.mean()),
        "change": float((after - before).mean()),
        "absolute_change": float(np.abs(after - before).mean()),
        "rank_correlation": float(np.mean(within)) if within else float("nan"),
        "pooled_rank_correlation": float(spearmanr(before, after).statistic),
        "rate_change": float(np.concatenate(rates).mean()),
    }


def _rates(entropy: np.ndarray, config: RunConfig) -> np.ndarray:
    """The relative rates of one response."""
    betas = entropy**config.rates.gamma
    mean = betas.mean()
    relative = betas / mean if mean > 0 else np.ones_like(betas)
    return np.clip(relative, config.rates.rate_min, config.rates.rate_max)
