"""What a study found, in files small enough to be committed: tables are made of these alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig, identity
from pipeline.evaluate.metrics import METRICS_FILE
from pipeline.evaluate.rows import read_rows
from pipeline.layout import DRIFT_FILE
from pipeline.provenance import provenance
from pipeline.tune.results import best_rows
from studies.plan import OBJECTIVE, TUNED, Run, Study

_SECTIONS = ("rates", "noise", "objective", "train", "lora", "reference", "evaluate", "tune")
_VERDICTS = pa.schema(
    [
        ("task", pa.string()),
        ("item_id", pa.string()),
        ("correct", pa.bool_()),
    ]
)


class Results:
    """The folder ``results`` of a study: a folder a run, the searches, the drift, the times."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is made when there is something to keep."""
        self.folder = folder

    def has(self, run: Run, config: RunConfig) -> bool:
        """Whether the run is there, made with the same settings."""
        path = self.folder_of(run) / "run.json"
        return path.exists() and _read(path).get("settings") == _settings(config)

    def add_run(self, run: Run, config: RunConfig, manifest: Manifest, history: str) -> None:
        """What the training of ``run`` measured; what was there of it goes."""
        own = self.folder_of(run)
        if own.exists():  # made with other settings, or never finished
            shutil.rmtree(own)
        own.mkdir(parents=True)
        _write(own / "training.json", {"facts": manifest.facts, "config": manifest.config})
        (own / "metrics.jsonl").write_text(history)

    def add_evaluation(self, run: Run, items: str, folder: str) -> None:
        """The metrics of an evaluation and the verdict on each of its items."""
        own = self.folder_of(run)
        own.mkdir(parents=True, exist_ok=True)
        metrics = storage.read_json(storage.join(folder, METRICS_FILE))
        _write(own / f"{items}.json", metrics)
        names = _VERDICTS.names
        rows = [{name: row[name] for name in names} for row in read_rows(folder)]
        table = pa.Table.from_pylist(rows, schema=_VERDICTS)
        pq.write_table(table, own / f"{items}.parquet", compression="zstd")

    def finish(self, run: Run, config: RunConfig) -> None:
        """The run is whole; written last."""
        facts = {"settings": _settings(config), "provenance": provenance()}
        _write(self.folder_of(run) / "run.json", facts)

    def search(self, name: str, config: RunConfig) -> list[dict[str, Any]] | None:
        """The trials of a search with the same settings, if it is there."""
        path = self.folder / f"search-{name}.json"
        if not path.exists() or _read(path)["settings"] != _settings(config):
            return None
        return list(_read(path)["trials"])

    def add_search(self, name: str, config: RunConfig, rows: list[dict[str, Any]]) -> None:
        """The trials of a search."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"settings": _settings(config), "provenance": provenance(), "trials": rows}
        _write(self.folder / f"search-{name}.json", facts)

    def trials(self, name: str) -> list[dict[str, Any]]:
        """The trials of a search, whatever its settings; none where there is none."""
        path = self.folder / f"search-{name}.json"
        return list(_read(path)["trials"]) if path.exists() else []

    def add_tokens(self, highest: list[tuple[str, ...]], lowest: list[tuple[str, ...]]) -> None:
        """Text, mean entropy and count of the tokens that are the most and the least uncertain."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(self.folder / "tokens.json", {"highest": highest, "lowest": lowest})

    def tokens(self) -> dict[str, list[list[str]]]:
        """What ``add_tokens`` kept."""
        path = self.folder / "tokens.json"
        return _read(path) if path.exists() else {"highest": [], "lowest": []}

    def drift(self, config: RunConfig) -> list[dict[str, float]] | None:
        """How far the entropies moved in the training ``config``, a row a checkpoint, if known."""
        path = self.folder / "drift.json"
        if not path.exists() or _read(path)["settings"] != _settings(config):
            return None
        return list(_read(path)["rows"])

    def add_drift(self, config: RunConfig, folder: str) -> None:
        """What the drift stage found in the training ``config``."""
        rows = storage.read_json(storage.join(folder, DRIFT_FILE))
        facts = {"settings": _settings(config), "provenance": provenance(), "rows": rows}
        _write(self.folder / "drift.json", facts)

    def add_time(self, what: str, seconds: float) -> None:
        """How long a step took, beside what the machine did else."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "times.jsonl").open("a") as file:
            file.write(json.dumps({"step": what, "seconds": round(seconds, 1)}) + "\n")

    def folder_of(self, run: Run) -> Path:
        """Where a run is kept."""
        return self.folder / f"n{run.size}" / run.name

    def commits(self) -> list[str]:
        """Of the code that made what is there."""
        files = [*self.folder.glob("*.json"), *self.folder.glob("n*/*/run.json")]
        made = [facts["provenance"] for f in files if "provenance" in (facts := _read(f))]
        return sorted({facts["commit"] for facts in made})


def searches(study: Study) -> dict[str, RunConfig]:
    """The searches of a study by name."""
    return {"learning-rates": study.learning_rate_search(), OBJECTIVE: study.objective_search()}


def with_choices(study: Study, results: Results) -> Study:
    """``study`` with what its searches chose: learning rates, and the tuned objective."""
    chosen: dict[str, dict[str, Any]] = {}
    for name, config in searches(study).items():
        for arm, params in best_rows(results.search(name, config) or []).items():
            chosen[TUNED if name == OBJECTIVE else arm] = params
    return replace(study, chosen=chosen)


def _settings(config: RunConfig) -> str:
    """Fingerprint of what decides a result, wherever it is made; the checkpoint's name does not."""
    values = {name: identity(getattr(config, name)) for name in _SECTIONS}
    values["evaluate"] |= {"checkpoints": (), "name": ""}
    sources = [identity(source) for source in config.data.sources]
    values["data"] = identity(config.data) | {"sources": sources}
    return artifacts.fingerprint(values | {"seed": config.run.seed, "model": config.model.path})


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


def _write(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")
