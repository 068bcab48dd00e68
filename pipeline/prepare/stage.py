"""Stage prepare: sources -> chat template -> token ids -> Parquet shards, on Ray Data.

Every shard is drafted on its own, then all ids together say what is dropped, then every shard is
finished. Nothing is dropped silently: each refused row is kept under ``rejected/`` with its source,
its position and the reason, and the manifest counts the reasons. A draft is the unit of resuming.
"""

import contextlib
import dataclasses
import itertools
import logging
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipeline import artifacts, storage
from pipeline.artifacts import FileEntry, Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, identity
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.layout import layout
from pipeline.models import check_context
from pipeline.parquet import row_groups
from pipeline.prepare.card import CARD, SourceCard, write_card
from pipeline.prepare.filters import known_languages
from pipeline.prepare.selection import Candidate, choose
from pipeline.prepare.shards import (
    DRAFTS,
    Piece,
    draft_paths,
    draft_shard,
    finish_shard,
    write_dropped,
)
from pipeline.progress import Progress
from pipeline.shard_tasks import ShardTask, Workers, run_shards
from pipeline.sizes import size_text
from pipeline.sources import Part, open_source
from pipeline.tokenizers import check_tokenizer, tokenizer_fingerprints

logger = logging.getLogger(__name__)

_MEMORY_OF_TASK = 700 * 2**20
"""Measured: libraries and tokenizer, and the rows that are held at once."""
_NO_PART_OF_IT = ("eos_policy", "tail_max")
"""Keys of ``[data]`` that say how training pads, which is no part of what is prepared."""

Surveyed = list[list[Part]]
"""The parts of each source."""


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write the ``prepared`` artifact of ``config``, or say that it is there already."""
    surveyed = _checked_survey(config)
    [(folder, wanted)] = _outputs(config, surveyed)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"prepare: {folder} is already finished; --overwrite repeats it")
        return
    started = time.monotonic()
    plan = plan_shards(surveyed, config.data.num_shards)
    with ray_session(cpus=config.data.num_cpus):
        artifacts.start_or_continue(folder, wanted.recipe, overwrite=overwrite)
        drafts = _drafts(config, folder, plan)
        dropped = choose(_candidates(folder, len(plan)), config.data)
        for shard in range(len(plan)):
            write_dropped(folder, shard, dropped.get(shard, {}))
        finished = _finish(config, folder, len(plan))
    manifest = _manifest(config, wanted, drafts, finished)
    manifest.facts["seconds"] = round(time.monotonic() - started, 1)
    artifacts.commit(folder, manifest)
    storage.remove(storage.join(folder, DRAFTS))
    counts_of_rows = f"rejected {manifest.rejected}, truncated {manifest.facts['num_truncated']}"
    print(f"prepare: {manifest.num_rows} examples, {counts_of_rows} -> {folder}")


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    counts = [sum(part.num_rows for part in parts) for parts in _checked_survey(config)]
    num_shards = min(config.data.num_shards, sum(counts))
    return (
        f"prepare: {sum(counts)} rows of {len(counts)} sources in {num_shards} shards "
        f"-> {layout(config).prepared}\n"
        f"memory of one task: about {size_text(_MEMORY_OF_TASK)}, whatever the size of a shard"
    )


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The prepared data, with what its manifest must say."""
    return _outputs(config, _checked_survey(config))


def _outputs(config: RunConfig, surveyed: Surveyed) -> list[tuple[str, Manifest]]:
    return [(layout(config).prepared, _wanted(config, surveyed))]


def _checked_survey(config: RunConfig) -> Surveyed:
    _check(config)
    return _survey(config)


def verify_prepared(config: RunConfig) -> None:
    """Raise ArtifactError where a file of the prepared data is not as it was written."""
    artifacts.verify_files(layout(config).prepared, require_prepared(config))


def require_prepared(config: RunConfig) -> Manifest:
    """The manifest of the run's prepared data, as the input of a later stage.

    Raises ArtifactError when it is missing, or was prepared with other ``[data]`` settings or with
    another tokenizer. Source files are not looked at: they need not be where training runs.
    """
    folder = layout(config).prepared
    found = artifacts.require(folder, "prepare", hint="run jobs/prepare.py")
    wanted, got = _data_settings(config), found.config.get("data", {})
    for name in sorted({*wanted, *got}):
        if artifacts.fingerprint(wanted.get(name)) != artifacts.fingerprint(got.get(name)):
            raise ArtifactError(
                f"{folder}: was prepared with data.{name} = {got.get(name)!r}, the configuration "
                f"says {wanted.get(name)!r}; run jobs/prepare.py --overwrite, or choose another "
                f"run.output_dir"
            )
    check_tokenizer(folder, found, tokenizer_fingerprints(config.model))
    return found


def plan_shards(surveyed: Surveyed, num_shards: int) -> list[list[Piece]]:
    """Cut the rows of all parts, laid end to end, into at most ``num_shards`` even shards."""
    parts = [(number, part) for number, parts in enumerate(surveyed) for part in parts]
    total = sum(part.num_rows for _, part in parts)
    num_shards = max(1, min(num_shards, total))
    bounds = [total * k // num_shards for k in range(num_shards + 1)]
    ends = list(itertools.accumulate(part.num_rows for _, part in parts))
    shards: list[list[Piece]] = []
    for low, high in itertools.pairwise(bounds):
        pieces = []
        for (source, part), end in zip(parts, ends, strict=True):
            offset = end - part.num_rows
            start, stop = max(low - offset, 0), min(high - offset, part.num_rows)
            if start < stop:
                pieces.append(Piece(source, part, start, stop))
        shards.append(pieces)
    return shards


def _check(config: RunConfig) -> None:
    check_context(config.model.path, config.data.max_length, "data.max_length")
    if config.data.languages:
        unknown = [code for code in config.data.languages if code not in known_languages()]
        if unknown:
            known = ", ".join(known_languages())
            raise ConfigError(f"data.languages: wanted some of {known}, got {', '.join(unknown)}")


def _survey(config: RunConfig) -> Surveyed:
    return [open_source(config.data, source).survey() for source in config.data.sources]


def _wanted(config: RunConfig, surveyed: Surveyed) -> Manifest:
    inputs = {
        f"source_{number}": artifacts.fingerprint([part.fingerprint for part in parts])
        for number, parts in enumerate(surveyed)
    }
    return Manifest(
        stage="prepare",
        config={"data": _data_settings(config)},
        inputs=inputs | tokenizer_fingerprints(config.model),
    )


def _data_settings(config: RunConfig) -> dict[str, Any]:
    data = {k: v for k, v in identity(config.data).items() if k not in _NO_PART_OF_IT}
    # Files and folders are known by their content; where they lie may change.
    sources = [
        identity(source) | {"path": "", "name": open_source(config.data, source).name}
        for source in config.data.sources
    ]
    return data | {"sources": sources}


def _drafts(config: RunConfig, folder: str, plan: list[list[Piece]]) -> list[dict[str, Any]]:
    """Draft all shards; what was counted in each."""

    def draft(row: dict[str, Any]) -> dict[str, Any]:
        return draft_shard(config, folder, int(row["shard"]), plan[int(row["shard"])])

    total = sum(piece.stop - piece.start for pieces in plan for piece in pieces)
    return _on_all_shards(config, draft, len(plan), Progress("prepare", "rows", total))


def _candidates(folder: str, num_shards: int) -> Iterator[Candidate]:
    columns = ["example_id", "source_number", "signature"]
    for shard in range(num_shards):
        row = 0
        for table in row_groups(draft_paths(folder, shard)[0], columns):
            for values in table.to_pylist():
                yield Candidate(
                    shard, row, values["example_id"], values["source_number"], values["signature"]
                )
                row += 1


def _finish(config: RunConfig, folder: str, num_shards: int) -> list[dict[str, Any]]:
    """Write all shards without what is dropped; their files and cards."""

    def finish(row: dict[str, Any]) -> dict[str, Any]:
        return finish_shard(folder, int(row["shard"]))

    return _on_all_shards(config, finish, num_shards)


def _on_all_shards(
    config: RunConfig, task: ShardTask, num_shards: int, progress: Progress | None = None
) -> list[dict[str, Any]]:
    rows = [{"shard": number} for number in range(num_shards)]
    results = []
    with progress or contextlib.nullcontext():
        for result in run_shards(lambda: task, rows, Workers(config.data.num_cpus)):
            results.append(result)
            if progress is not None:
                progress.add(int(result["num_rows"]))
    return sorted(results, key=lambda shard: int(shard["shard"]))


def _manifest(
    config: RunConfig,
    wanted: Manifest,
    drafts: list[dict[str, Any]],
    finished: list[dict[str, Any]],
) -> Manifest:
    folder = layout(config).prepared
    cards: dict[str, SourceCard] = {}
    for shard in finished:
        for source, values in shard["cards"].items():
            cards[source] = cards.get(source, SourceCard()) + SourceCard(**values)
    rejected = _rejected(drafts, finished)
    reasons: Counter[str] = sum((Counter(r) for r in rejected.values()), Counter())
    num_examples = sum(card.num_examples for card in cards.values())
    if num_examples == 0:
        raise DataError(
            f"{folder}: not one example could be used, rejected {dict(sorted(reasons.items()))}; "
            f"see the reasons in {folder}/rejected"
        )
    write_card(folder, cards, rejected, [o for shard in drafts for o in shard["overlaps"]])
    files = {name: FileEntry(**e) for shard in finished for name, e in shard["files"].items()}
    files[CARD] = artifacts.file_entry(storage.join(folder, CARD))
    facts = {
        "num_truncated": int(sum(shard["num_truncated"] for shard in finished)),
        "num_tokens": sum(c.prompt_tokens + c.response_tokens for c in cards.values()),
        "longest": max(card.longest for card in cards.values()),
    }
    return dataclasses.replace(
        wanted,
        files=files,
        num_rows=num_examples,
        rejected=dict(sorted(reasons.items())),
        facts=facts,
    )


def _rejected(
    drafts: list[dict[str, Any]], finished: list[dict[str, Any]]
) -> dict[str, Counter[str]]:
    """Rows kept out, by source and reason."""
    found: dict[str, Counter[str]] = {}
    for shard in [*drafts, *finished]:
        for source, reasons in shard["rejected"].items():
            found.setdefault(source, Counter()).update(reasons)
    return found
