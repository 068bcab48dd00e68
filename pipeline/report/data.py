"""What a report is made of: the artifacts that are there in a run's folder."""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import ModelSection, RunConfig
from pipeline.errors import ArtifactError, CheckpointError
from pipeline.layout import DRIFT_FILE, TRIALS_FILE, layout
from pipeline.prepare.card import CARD

_MAX_EXAMPLES = 20_000
"""About how many examples the entropy statistics are taken from, in whole shards."""


@dataclass(frozen=True)
class Checkpoint:
    """A finished fine-tuning run and its logged metrics."""

    name: str
    manifest: Manifest
    history: list[dict[str, float]]

    @property
    def weights_identity(self) -> str:
        """What an evaluation of it has as its input ``weights``."""
        checksums = {name: entry.sha256 for name, entry in self.manifest.files.items()}
        return artifacts.weights_identity(checksums, self.manifest.inputs.get("weights", ""))

    @property
    def recipe_but_seed(self) -> str:
        """The same for trainings that differ in nothing but their seed."""
        config = {key: value for key, value in self.manifest.config.items() if key != "run"}
        return dataclasses.replace(self.manifest, config=config).recipe


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: ``metrics.json`` and its rows."""

    name: str
    manifest: Manifest
    metrics: dict[str, Any]
    rows: list[dict[str, Any]]

    def items_identity(self, task: str) -> str:
        """Fingerprint of the items of ``task``; equal where two evaluations had the same items."""
        ids = sorted(row["item_id"] for row in self.rows if row["task"] == task)
        return self.manifest.inputs.get(f"items_{task}") or artifacts.fingerprint(ids)

    def is_stale(self, checkpoints: list[Checkpoint]) -> bool:
        """Whether its checkpoint has been trained anew since, to other weights or another way."""
        trained = self.metrics["checkpoint"]
        now = {c.name: c for c in checkpoints}.get(trained["path"])
        if now is None or not trained.get("is_of_this_run"):
            return False
        is_same_recipe = trained.get("recipe") in (None, now.manifest.recipe)
        return not is_same_recipe or self.manifest.inputs.get("weights") != now.weights_identity


@dataclass(frozen=True)
class Drift:
    """How far a training moved the entropies: one row a checkpoint; see ``pipeline.drift``."""

    name: str
    manifest: Manifest
    rows: list[dict[str, float]]


@dataclass(frozen=True)
class Search:
    """A finished search: a row a trial, and what each trial reported; see ``pipeline.tune``."""

    name: str
    manifest: Manifest
    rows: list[dict[str, Any]]
    reports: dict[str, list[dict[str, float]]]


_Named = TypeVar("_Named", Checkpoint, Drift, Search)


@dataclass(frozen=True)
class RunData:
    """Every finished artifact of a run, and the names of the unfinished and the stale ones."""

    root: str
    prepared: Manifest | None
    card: dict[str, Any] | None
    """The data card of the prepared data."""
    entropies: Manifest | None
    checkpoints: list[Checkpoint]
    evaluations: list[Evaluation]
    drifts: list[Drift]
    searches: list[Search]
    unfinished: list[str]

    def manifests(self) -> dict[str, Manifest]:
        """The manifests by the artifacts' folders under the root, in the order of the stages."""
        single = {"prepared": self.prepared, "entropies": self.entropies}
        found = {name: manifest for name, manifest in single.items() if manifest is not None}
        found |= {f"checkpoints/{c.name}": c.manifest for c in self.checkpoints}
        found |= {f"drift/{d.name}": d.manifest for d in self.drifts}
        found |= {f"tune/{s.name}": s.manifest for s in self.searches}
        return found | {f"evaluations/{e.name}": e.manifest for e in self.evaluations}


def read_runs(config: RunConfig) -> RunData:
    """The run of ``config``, with the checkpoints, drifts and evaluations of ``report.runs``.

    Theirs have the name of their run's folder in front. Errors as of ``read_run``; ArtifactError
    for a further run that has nothing.
    """
    own = read_run(config)
    prefixes: list[str] = []
    for root in config.report.runs:
        other_run = dataclasses.replace(config.run, output_dir=root)
        found = read_run(dataclasses.replace(config, run=other_run))
        if not found.manifests():
            raise ArtifactError(f"report.runs: {root}: wanted the output folder of a run, got none")
        name = root.rpartition("/")[2]
        same = prefixes.count(name)
        prefixes.append(name)
        own = _with_run(own, found, f"{name}-{same + 1}/" if same else f"{name}/")
    return own


def _with_run(own: RunData, other: RunData, prefix: str) -> RunData:
    return dataclasses.replace(
        own,
        checkpoints=own.checkpoints + _renamed(other.checkpoints, prefix),
        evaluations=own.evaluations + [_named(e, prefix) for e in other.evaluations],
        drifts=own.drifts + _renamed(other.drifts, prefix),
        searches=own.searches + _renamed(other.searches, prefix),
        unfinished=own.unfinished + [f"{prefix}{name}" for name in other.unfinished],
    )


def _renamed(found: list[_Named], prefix: str) -> list[_Named]:
    return [dataclasses.replace(item, name=f"{prefix}{item.name}") for item in found]


def _named(evaluation: Evaluation, prefix: str) -> Evaluation:
    trained = evaluation.metrics["checkpoint"]
    path = trained["path"]
    shown = f"{prefix}{path}" if trained.get("is_of_this_run") else path
    name = f"{prefix}{evaluation.name}"
    metrics = evaluation.metrics | {"name": name, "checkpoint": trained | {"path": shown}}
    return dataclasses.replace(evaluation, name=name, metrics=metrics)


def read_run(config: RunConfig) -> RunData:
    """The run's artifacts; ArtifactError for a damaged one, nothing for one that is not there."""
    folders = layout(config)
    trained, half_trained = _children(folders.checkpoints)
    evaluated, half_evaluated = _children(folders.evaluations)
    measured, half_measured = _children(folders.drifts)
    searched, half_searched = _children(folders.searches)
    checkpoints = [_read_checkpoint(folders.checkpoint(name), name) for name in trained]
    evaluations = [_read_evaluation(folders.evaluation(name), name) for name in evaluated]
    stale = [e.name for e in evaluations if e.is_stale(checkpoints)]
    prepared = _manifest(folders.prepared, "prepare")
    return RunData(
        root=folders.root,
        prepared=prepared,
        card=_read_card(folders.prepared, prepared) if prepared is not None else None,
        entropies=_manifest(folders.entropies, "reference"),
        checkpoints=checkpoints,
        evaluations=sorted(
            (found for found in evaluations if found.name not in stale),
            key=lambda found: _reading_order(found.name, config.report.baseline),
        ),
        drifts=[_read_drift(folders.drift(name), name) for name in measured],
        searches=[_read_search(folders.search(name), name) for name in searched],
        unfinished=[f"checkpoints/{name}" for name in half_trained]
        + [f"drift/{name}" for name in half_measured]
        + [f"tune/{name}" for name in half_searched]
        + [f"evaluations/{name}" for name in half_evaluated]
        + [f"evaluations/{name} (its checkpoint was trained anew since)" for name in stale],
    )


def _reading_order(name: str, baseline: str) -> tuple[bool, bool, str]:
    # The base model first, then what the others are compared with, then the others.
    return (not name.startswith("base"), not name.startswith(baseline), name)


def _children(parent: str) -> tuple[list[str], list[str]]:
    """Names of the finished and of the unfinished artifacts in ``parent``."""
    names = [name for name in storage.list_files(parent) if not name.startswith(".")]
    whole = {n for n in names if storage.exists(storage.join(parent, n, artifacts.MANIFEST))}
    return [n for n in names if n in whole], [n for n in names if n not in whole]


def _manifest(folder: str, stage: str) -> Manifest | None:
    there = storage.exists(storage.join(folder, artifacts.MANIFEST))
    return _required(folder, stage) if there else None


def _required(folder: str, stage: str) -> Manifest:
    return artifacts.require(folder, stage, hint=f"repeat jobs/{stage}.py with --overwrite")


def _verify(folder: str, manifest: Manifest, names: list[str]) -> None:
    """Check only the files that are read: weights and other large files are left alone."""
    files = {name: manifest.files[name] for name in names}
    artifacts.verify_files(folder, dataclasses.replace(manifest, files=files))


def _read_drift(folder: str, name: str) -> Drift:
    manifest = _required(folder, "drift")
    _verify(folder, manifest, [DRIFT_FILE])
    return Drift(name, manifest, storage.read_json(storage.join(folder, DRIFT_FILE)))


def _read_search(folder: str, name: str) -> Search:
    manifest = _required(folder, "tune")
    records = [n for n in manifest.files if n.startswith("trials/")]
    _verify(folder, manifest, [TRIALS_FILE, *records])
    found = [storage.read_json(storage.join(folder, n)) for n in records]
    names = [n.removeprefix("trials/").removesuffix(".json") for n in records]
    rows = storage.read_table(storage.join(folder, TRIALS_FILE)).to_pylist()
    reports = {n: record["reports"] for n, record in zip(names, found, strict=True)}
    return Search(name, manifest, rows, reports)


def _read_card(folder: str, prepared: Manifest) -> dict[str, Any]:
    _verify(folder, prepared, [CARD])
    return dict(storage.read_json(storage.join(folder, CARD)))


def _read_checkpoint(folder: str, name: str) -> Checkpoint:
    manifest = _required(folder, "train")
    if "metrics.jsonl" not in manifest.files:
        return Checkpoint(name, manifest, [])
    _verify(folder, manifest, ["metrics.jsonl"])
    lines = storage.read_bytes(storage.join(folder, "metrics.jsonl")).decode().splitlines()
    return Checkpoint(name, manifest, [json.loads(line) for line in lines])


def _read_evaluation(folder: str, name: str) -> Evaluation:
    manifest = _required(folder, "evaluate")
    _verify(folder, manifest, list(manifest.files))
    tables = [n for n in sorted(manifest.files) if n.endswith(".parquet")]
    rows = [r for n in tables for r in storage.read_table(storage.join(folder, n)).to_pylist()]
    return Evaluation(name, manifest, storage.read_json(storage.join(folder, "metrics.json")), rows)


@dataclass(frozen=True)
class Trace:
    """One training example with the reference entropy (nats) of each response token."""

    source: str
    example_id: str
    prompt_ids: list[int]
    response_ids: list[int]
    entropy: list[float]


@dataclass(frozen=True)
class EntropySample:
    """Reference entropies of all response tokens that were read, and a few whole traces."""

    token_ids: np.ndarray
    """[N] integers."""
    entropy: np.ndarray
    """[N] float32, nats."""
    lengths: np.ndarray
    """[num_examples] integers: tokens of each response, one behind the other in the two above."""
    traces: list[Trace]
    num_examples: int
    num_examples_in_all: int


def read_entropies(config: RunConfig, run: RunData) -> EntropySample | str:
    """The sample, with ``report.num_examples`` traces of each source; or why there is none.

    Large data sets are thinned to every k-th shard. ArtifactError where the shards of prepared data
    and of entropies do not match.
    """
    if run.prepared is None or run.entropies is None:
        missing = "prepared data" if run.prepared is None else "reference entropies"
        stage = "prepare" if run.prepared is None else "reference"
        return f"There are no {missing} in this run (jobs/{stage}.py)."
    if run.entropies.inputs.get("prepared") != run.prepared.content:
        return "The entropies were computed for other data; run jobs/reference.py --overwrite."
    stride = max(1, math.ceil(run.prepared.num_rows / _MAX_EXAMPLES))
    names = run.prepared.shards[::stride]
    shards = [_read_shard(config, run.prepared, run.entropies, name) for name in names]
    table = pa.concat_tables(shards)
    if table.num_rows == 0:
        return "The shards that were looked at are empty."
    return EntropySample(
        token_ids=_flat(table, "response_ids"),
        entropy=_flat(table, "entropy"),
        lengths=np.asarray(pc.list_value_length(table.column("entropy"))),
        traces=_pick_traces(table, config.report.num_examples),
        num_examples=table.num_rows,
        num_examples_in_all=run.prepared.num_rows,
    )


def _read_shard(config: RunConfig, prepared: Manifest, entropies: Manifest, name: str) -> pa.Table:
    folders = layout(config)
    _verify(folders.prepared, prepared, [name])
    _verify(folders.entropies, entropies, [name] if name in entropies.files else [])
    examples = storage.read_table(storage.join(folders.prepared, name))
    values = storage.read_table(storage.join(folders.entropies, name))
    if examples.column("example_id").equals(values.column("example_id")):
        table = examples.append_column("entropy", values.column("entropy"))
        table = table.filter(pc.is_valid(table.column("entropy")))
        if len(_flat(table, "response_ids")) == len(_flat(table, "entropy")):
            return table
    raise ArtifactError(
        f"{folders.entropies}/{name}: wanted the examples of {folders.prepared}/{name}, one "
        f"entropy a response token, got others; run jobs/reference.py --overwrite"
    )


def _flat(table: pa.Table, column: str) -> np.ndarray:
    return np.asarray(table.column(column).combine_chunks().flatten())


def _pick_traces(table: pa.Table, num_examples: int) -> list[Trace]:
    taken: Counter[str] = Counter()
    chosen = []
    for number, source in enumerate(table.column("source").to_pylist()):
        if taken[source] < num_examples:
            taken[source] += 1
            chosen.append(number)
    names = [field.name for field in dataclasses.fields(Trace)]
    rows = table.take(chosen).select(names).to_pylist()
    return sorted((Trace(**row) for row in rows), key=lambda trace: trace.source)


@dataclass(frozen=True)
class TokenReader:
    """Texts of token ids; ids in brackets where the right tokenizer is not at hand."""

    decode: Callable[[list[int]], str] | None = None
    eos_token_id: int | None = None
    fingerprint: str = ""
    problem: str = ""

    def text(self, ids: list[int]) -> str:
        """All of ``ids`` as one text."""
        return self.decode(ids) if self.decode else "".join(f"[{i}]" for i in ids)

    def texts(self, ids: list[int]) -> list[str]:
        """One text a token."""
        known = {i: self.text([i]) for i in set(ids)}
        return [known[i] for i in ids]

    def for_artifact(self, manifest: Manifest) -> "TokenReader":
        """This reader if ``manifest`` was made with its tokenizer, else one that shows ids."""
        if self.decode is None or manifest.inputs.get("tokenizer") == self.fingerprint:
            return self
        return TokenReader(problem="made with another tokenizer than model.path has: ids are shown")


def open_reader(model: ModelSection) -> TokenReader:
    """The reader of ``model``; one that shows ids, and says why, where it has no tokenizer."""
    from pipeline.tokenizers import open_tokenizer, tokenizer_fingerprints

    try:
        tokenizer = open_tokenizer(model)
    except CheckpointError as error:
        return TokenReader(problem=f"token ids are shown: {error}")

    def decode(ids: list[int]) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(tokenizer.decode(ids, **options))

    return TokenReader(decode, tokenizer.eos_token_id, tokenizer_fingerprints(model)["tokenizer"])
