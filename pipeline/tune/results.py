"""What a search leaves: the table of its trials, and its best configurations."""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.config_file import format_config
from pipeline.layout import TRIALS_FILE, best_file
from pipeline.search_space import arms, configured
from pipeline.tune.records import TrialRecord, checkpoint_folder
from pipeline.tune.trial import entropies_name

WANTED = "wanted.json"
_SCHEMA = pa.schema(
    [
        ("trial", pa.string()),
        ("arm", pa.string()),
        ("number", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("params", pa.string()),  # JSON
        ("nelbo", pa.float64()),
        ("percent", pa.float64()),
        ("steps", pa.int64()),
        ("seconds", pa.float64()),
        ("seconds_to_start", pa.float64()),
        ("accuracy", pa.float64()),  # mean over the tasks; null but for the finalists
        ("accuracies", pa.string()),  # JSON, by task
        ("is_best", pa.bool_()),
        ("is_best_of_arm", pa.bool_()),
    ]
)
Accuracies = dict[str, dict[str, float]]
"""Trial -> task -> accuracy."""


def finalists(records: Sequence[TrialRecord], num: int) -> list[TrialRecord]:
    """The ``num`` best finished trials of each arm by held-out NELBO."""
    finished = sorted(
        (r for r in records if r.status == "finished"), key=lambda r: (r.arm, r.nelbo, r.trial)
    )
    groups = itertools.groupby(finished, key=lambda record: record.arm)
    return [record for _, group in groups for record in itertools.islice(group, num)]


def best_of(records: Sequence[TrialRecord], accuracies: Accuracies) -> TrialRecord:
    """The finalist with the best mean accuracy, of equal ones that with the less NELBO; without
    finalists the finished trial with the least NELBO."""
    finished = [r for r in records if r.status == "finished"]
    judged = [r for r in finished if r.trial in accuracies] or finished
    return min(judged, key=lambda r: (-_mean(accuracies.get(r.trial)), r.nelbo, r.trial))


def _mean(values: dict[str, float] | None) -> float:
    return sum(values.values()) / len(values) if values else 0.0


def write_results(
    config: RunConfig,
    folder: str,
    wanted: Manifest,
    records: Sequence[TrialRecord],
    accuracies: Accuracies,
    seconds: float,
) -> None:
    """The table, the best configurations, and the manifest; weights of others are removed."""
    best = best_of(records, accuracies)
    winners = {best_file(): best}
    for arm in arms(config):
        own = [record for record in records if record.arm == arm.name]
        winners[best_file(arm.name)] = best_of(own, accuracies)
    rows = [
        _row(record, accuracies)
        | {"is_best": record is best, "is_best_of_arm": record in winners.values()}
        for record in records
    ]
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    storage.write_table(storage.join(folder, TRIALS_FILE), table)
    for name, record in winners.items():
        text = format_config(best_config(config, record))
        storage.write_bytes(storage.join(folder, name), text.encode())
    if not config.tune.keep_all:
        kept = {record.trial for record in finalists(records, max(1, config.tune.finalists))}
        for record in records:
            if record.trial not in kept:
                storage.remove(checkpoint_folder(folder, record.trial))
    names = [TRIALS_FILE, WANTED, artifacts.RECIPE, *winners]
    names += [f"trials/{record.trial}.json" for record in records]
    files = {name: artifacts.file_entry(storage.join(folder, name)) for name in names}
    counts = Counter(record.status for record in records)
    facts: dict[str, Any] = {"seconds": round(seconds, 1), "best": best.trial}
    facts |= {str(status): count for status, count in counts.items()}
    artifacts.commit(
        folder, dataclasses.replace(wanted, files=files, num_rows=len(rows), facts=facts)
    )


def best_config(config: RunConfig, record: TrialRecord) -> RunConfig:
    """What trains the trial of ``record`` anew, on all examples: for stage train."""
    arm = next(arm for arm in arms(config) if arm.name == record.arm)
    found = configured(config, {**arm.fixed, **record.params})
    name = f"{config.tune.name}-{record.trial}"
    reference = replace(found.reference, name=entropies_name(config, found))
    return replace(found, train=replace(found.train, name=name), reference=reference)


def _row(record: TrialRecord, accuracies: Accuracies) -> dict[str, Any]:
    last = record.reports[-1] if record.reports else {}
    own = accuracies.get(record.trial)
    return {
        "trial": record.trial,
        "arm": record.arm,
        "number": record.number,
        "status": record.status,
        "reason": record.reason,
        "params": json.dumps(record.params),
        "nelbo": record.nelbo,
        "percent": last.get("percent"),
        "steps": int(last["step"]) if last else None,
        "seconds": record.seconds,
        "seconds_to_start": record.seconds_to_start,
        "accuracy": _mean(own) if own else None,
        "accuracies": json.dumps(own) if own else None,
    }


def best_rows(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The parameters of the best trial of each arm, out of the rows of ``trials.parquet``."""
    return {row["arm"]: json.loads(row["params"]) for row in rows if row["is_best_of_arm"]}
