"""The search: real Ray Tune and Optuna over trials that train nothing, and what is made of it."""

import contextlib
import dataclasses
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline import artifacts
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.config_file import load_config, parse_config
from pipeline.errors import ArtifactError, ConfigError, PipelineError
from pipeline.search_space import arms
from pipeline.train.held_out import NELBO
from pipeline.tune import stage
from pipeline.tune.records import TrialRecord, read_records, trial_name, write_record
from pipeline.tune.results import (
    best_config,
    best_of,
    best_rows,
    finalists,
    write_results,
)
from pipeline.tune.search import _plan, concurrent_trials, require_measures, run_arms
from pipeline.tune.trial import PERCENT, Search, entropies_name

GAMMA = {"key": "rates.gamma", "values": [0.25, 0.5, 1.0]}
RATE = {"key": "train.learning_rate", "low": 1e-4, "high": 1e-2, "log": True}


def config_of(root: Path, *space: dict, **tune: object) -> RunConfig:
    values = {"tune": {"space": list(space), **tune}, "run": {"output_dir": str(root)}}
    return parse_config(values, where="test")


def quadratic(params: dict[str, Any], *, search: Search) -> None:
    """A trial whose measures fall to ``log10(rate / 1e-3) ** 2`` in eight steps.

    One of gamma 1 fails. Each call leaves a line in a file.
    """
    import ray.tune

    with Path(search.folder, "calls").open("a") as calls:
        calls.write(json.dumps(params) + "\n")
    if params.get("rates.gamma") == 1.0:
        raise PipelineError("gamma 1 is\nnever right")
    rate = params.get("train.learning_rate", 1e-3)
    end = math.log10(rate / 1e-3) ** 2
    for step in range(1, 9):
        value = {"step": float(step), PERCENT: 12.5 * step, NELBO: end + 1 / step, "seconds": step}
        ray.tune.report(value)


def lost_once(params: dict[str, Any], *, search: Search) -> None:
    """A quadratic trial whose process is killed in its middle, the first time."""
    import ray.tune

    with contextlib.suppress(FileExistsError):
        Path(search.folder, "lost").touch(exist_ok=False)
        ray.tune.report({"step": 1.0, PERCENT: 12.5, NELBO: 5.0, "seconds": 1.0})
        os.kill(os.getpid(), signal.SIGKILL)
    quadratic(params, search=search)


def run_quadratic(config: RunConfig, trial: Callable[..., None] = quadratic) -> list[TrialRecord]:
    folder = f"{config.run.output_dir}/tune/search"
    Path(folder).mkdir(parents=True, exist_ok=True)
    return run_arms([Search(config, arm, folder) for arm in arms(config)], 2, trial=trial)


def num_calls(config: RunConfig) -> int:
    return len(Path(config.run.output_dir, "tune/search/calls").read_text().splitlines())


def test_a_search_proposes_stops_and_records(local_ray: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, GAMMA, RATE, num_trials=8, seed=1)
    records = run_quadratic(config)
    assert records == read_records(str(tmp_path / "tune/search"))
    assert [record.number for record in records] == list(range(8))
    # The first is the configuration as it stands; two start at once, in either order.
    assert {"rates.gamma": 0.5, "train.learning_rate": 1e-3} in [r.params for r in records[:2]]
    for record in records:
        is_failed = record.params["rates.gamma"] == 1.0
        assert (record.status == "failed") == is_failed
        if is_failed:
            assert record.reason == "gamma 1 is never right"
        else:
            steps = [report["step"] for report in record.reports]
            assert steps == list(range(1, len(steps) + 1))
            assert (record.status == "finished") == (len(steps) == 8)
    stopped = [record for record in records if record.status == "stopped"]
    assert stopped
    assert all("among the worse at" in record.reason for record in stopped)
    assert min(r.nelbo for r in records if r.nelbo is not None) < 0.2
    # All is there: nothing is run again.
    calls = num_calls(config)
    assert run_quadratic(config) == records
    assert num_calls(config) == calls


def test_a_search_that_was_interrupted_goes_on_with_what_it_knew(
    local_ray: None, tmp_path: Path
) -> None:
    arms_of = [{"name": "free"}, {"name": "fixed", "set": ["train.learning_rate = 0.001"]}]
    config = config_of(tmp_path, RATE, num_trials=2, scheduler="none", arms=arms_of)
    before = run_quadratic(config)
    # What an arm fixes it does not search: a single trial.
    assert [(record.arm, record.number) for record in before] == [
        ("free", 0),
        ("free", 1),
        ("fixed", 0),
    ]
    assert before[2].params == {}
    # As a kill would leave it: one trial is in the middle, and more are wanted.
    before[1].status, before[1].reports = "running", before[1].reports[:2]
    write_record(f"{tmp_path}/tune/search", before[1])
    calls = num_calls(config)
    more = dataclasses.replace(config, tune=dataclasses.replace(config.tune, num_trials=3))
    records = run_quadratic(more)
    assert [record.params for record in records[:2]] == [record.params for record in before[:2]]
    assert [record.arm for record in records] == ["free"] * 3 + ["fixed"]
    assert len({record.trial for record in records}) == 4
    assert all(record.status == "finished" for record in records)
    assert all(len(record.reports) == 8 for record in records)
    # What was over before is as it was, to the time, and was not run again.
    assert records[0] == before[0]
    assert num_calls(config) == calls + 2
    # The times of a trial that went on are those of both its tries.
    assert [report["seconds"] for report in records[1].reports] == [1, 2, *range(5, 11)]
    assert not list(Path(tmp_path, "tune/search").glob("ray/*"))


def test_a_trial_whose_process_is_lost_is_tried_again(local_ray: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, RATE, num_trials=2, scheduler="none")
    records = run_quadratic(config, lost_once)
    assert [(record.status, record.num_proposed) for record in records] == [("finished", 1)] * 2
    assert all([r["step"] for r in record.reports] == [*range(1, 9)] for record in records)
    assert {record.seconds_before for record in records} == {0.0, 1.0}


def storage_away_once(params: dict[str, Any], *, search: Search) -> None:
    """A quadratic trial whose storage does not answer, the first time."""
    with contextlib.suppress(FileExistsError):
        Path(search.folder, "away").touch(exist_ok=False)
        raise ArtifactError("s3://bucket: cannot be written") from OSError("away")
    quadratic(params, search=search)


def test_a_trial_whose_storage_was_away_is_tried_again(local_ray: None, tmp_path: Path) -> None:
    config = config_of(tmp_path, RATE, num_trials=2, scheduler="none")
    records = run_quadratic(config, storage_away_once)
    assert [record.status for record in records] == ["finished"] * 2


WORKER, GPU_WORKER = {"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}
BIG_NODE = {"CPU": 64.0, "GPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "parts", "wanted"),
    [
        ([{"CPU": 2.0}], [WORKER], 1),  # the trials themselves need a little
        ([{"CPU": 3.0}], [WORKER], 2),
        ([BIG_NODE], [GPU_WORKER] * 2, 4),
        ([BIG_NODE] * 2, [GPU_WORKER] * 3, 5),  # workers of one trial may lie on two nodes
        ([{"CPU": 16.0, "GPU": 8.0}], [GPU_WORKER], 3),
        ([{"CPU": 3.0}] * 4, [{"CPU": 2.0}], 4),  # and no worker does
        # A reference job beside the workers: were it left out, eight trials would take all GPUs.
        ([BIG_NODE], [GPU_WORKER, {"CPU": 2.0, "GPU": 1.0}], 4),
        ([{"CPU": 4.0}] * 2, [{"CPU": 3.0}, {"CPU": 2.0}], 1),
        ([{"CPU": 8.0}], [{"CPU": 1.0, "GPU": 1.0}], 0),
        ([], [WORKER], 0),
    ],
)
def test_no_more_trials_at_once_than_the_nodes_hold(
    nodes: list[dict[str, float]], parts: list[dict[str, float]], wanted: int
) -> None:
    before = [dict(node) for node in nodes]
    assert concurrent_trials(nodes, parts) == wanted
    assert nodes == before


def record_of(arm: str, number: int, nelbo: float | None, status: str = "finished") -> TrialRecord:
    percent = 100.0 if status == "finished" else 50.0
    report = {"step": 8.0, PERCENT: percent, NELBO: nelbo or 0.0, "seconds": 10.0 * (number + 1)}
    params = {"train.learning_rate": 1e-3 * (number + 1)}
    return TrialRecord(
        arm,
        number,
        params,
        status,
        reports=[] if nelbo is None else [report],  # type: ignore[arg-type]
    )


RECORDS = [
    record_of("sft", 0, 0.5),
    record_of("sft", 1, 0.3),
    record_of("sft", 2, 0.1, "stopped"),
    record_of("weft", 0, 0.4),
    record_of("weft", 1, 0.2),
    record_of("weft", 2, None, "failed"),
]


def test_the_best_is_the_most_accurate_of_the_best_by_nelbo() -> None:
    chosen = finalists(RECORDS, 1)
    assert [(record.arm, record.number) for record in chosen] == [("sft", 1), ("weft", 1)]
    assert [r.number for r in finalists(RECORDS, 9) if r.arm == "weft"] == [1, 0]
    assert best_of(RECORDS, {}) is RECORDS[4]
    accuracies = {RECORDS[1].trial: {"a": 0.5, "b": 0.7}, RECORDS[4].trial: {"a": 0.6, "b": 0.5}}
    assert best_of(RECORDS, accuracies) is RECORDS[1]
    accuracies[RECORDS[4].trial]["b"] = 0.6
    assert best_of(RECORDS, accuracies) is RECORDS[4]  # equal: by NELBO


def test_results_are_a_table_and_configurations_that_train_reads(tmp_path: Path) -> None:
    fixed = [{"name": "sft", "set": ["rates.gamma = 0"]}, {"name": "weft"}]
    config = config_of(tmp_path, RATE, arms=fixed, finalists=1)
    folder = f"{tmp_path}/tune/search"
    for record in RECORDS:
        write_record(folder, record)
        Path(folder, "checkpoints", record.trial).mkdir(parents=True)
    artifacts_wanted = Manifest(stage="tune", config={}, inputs={})
    for name in ("wanted.json", "recipe.json"):
        Path(folder, name).write_text("{}")
    accuracies = {RECORDS[1].trial: {"a": 0.25}, RECORDS[4].trial: {"a": 0.5}}
    write_results(config, folder, artifacts_wanted, RECORDS, accuracies, 12.0)
    rows = pq.read_table(f"{folder}/trials.parquet").to_pylist()
    assert [row["nelbo"] for row in rows] == [0.5, 0.3, 0.1, 0.4, 0.2, None]
    assert [row["is_best"] for row in rows] == [False] * 4 + [True, False]
    assert best_rows(rows) == {record.arm: record.params for record in (RECORDS[1], RECORDS[4])}
    assert [row["accuracy"] for row in rows] == [None, 0.25, None, None, 0.5, None]
    assert [row["percent"] for row in rows] == [100.0, 100.0, 50.0, 100.0, 100.0, None]
    assert json.loads(rows[1]["params"]) == {"train.learning_rate": 2e-3}
    found = artifacts.read_manifest(folder)
    assert found is not None
    artifacts.verify_files(folder, found)
    assert found.facts["finished"] == 4
    assert (found.facts["failed"], found.facts["stopped"]) == (1, 1)
    # Only the weights of the finalists are kept.
    kept = sorted(path.name for path in Path(folder, "checkpoints").iterdir())
    assert kept == sorted([RECORDS[1].trial, RECORDS[4].trial])
    best, sft = (load_config(f"{folder}/{name}") for name in ("best.toml", "best-sft.toml"))
    assert best == best_config(config, RECORDS[4])
    assert (best.rates.gamma, best.train.learning_rate) == (0.5, 2e-3)
    assert (sft.rates.gamma, sft.train.learning_rate) == (0.0, 2e-3)
    assert best.train.held_out == 0  # on all examples
    assert sft.train.name == f"search-{RECORDS[1].trial}"


def test_a_trial_reads_the_entropies_of_its_estimator(tmp_path: Path) -> None:
    estimators = {"key": "reference.estimator", "values": ["full_mask", "nll"]}
    config = config_of(tmp_path, estimators, RATE)
    search = Search(config, arms(config)[0], str(tmp_path))
    own = search.trial_config({"reference.estimator": "full_mask"})
    other = search.trial_config({"reference.estimator": "nll"})
    assert own.reference.name == "entropies"
    assert other.reference.name == entropies_name(config, other) == "entropies-nll"
    assert (own.train.held_out, own.train.held_out_draws) == (256, 1)
    assert own.train.name == trial_name("search", {"reference.estimator": "full_mask"})


def test_proposals_that_come_twice_use_up_the_budget(tmp_path: Path) -> None:
    config = config_of(tmp_path, GAMMA, num_trials=6)
    search = Search(config, arms(config)[0], str(tmp_path))
    found = [TrialRecord("search", k, {"rates.gamma": g}) for k, g in enumerate((0.5, 1.0))]
    assert _plan(search, found[:0]) == ([{"rates.gamma": 0.5}], 6)
    found[1].num_proposed = 3
    # Two names for four trials: both come again, and two new ones.
    assert _plan(search, found) == ([record.params for record in found], 4)
    found[0].num_proposed = 9
    assert _plan(search, found)[1] == 2


def test_a_report_of_a_step_before_is_dropped() -> None:
    record = record_of("a", 0, 0.5)
    for step in (3.0, 8.0, 9.0):
        record.add(record.reports[0] | {"step": step})
    assert [report["step"] for report in record.reports] == [8.0, 9.0]


@pytest.mark.parametrize(
    ("budget", "records", "match"),
    [
        (
            30.0,
            [record_of("a", 0, 0.5, "stopped")],
            r"30 s were too few for one trial of arm a \(the f",
        ),
        (30.0, [record_of("a", 0, None, "stopped")], "none was measured"),
        (2.0, [], "2 s were too few for one trial of arm a .none was measured"),
        (
            0.0,
            [dataclasses.replace(RECORDS[5], reason="no room")],
            "1 failed, the first with: no r",
        ),
    ],
)
def test_a_search_without_one_finished_trial_says_why(
    budget: float, records: list[TrialRecord], match: str, tmp_path: Path
) -> None:
    config = config_of(tmp_path, RATE, time_budget_s=budget)
    with pytest.raises(ConfigError, match=match):
        require_measures(config, "a", records, 31.0)
    require_measures(config, "a", [*records, RECORDS[0]], 31.0)


def test_a_search_goes_on_only_with_the_settings_that_it_was_begun_with(tmp_path: Path) -> None:
    folder = str(tmp_path / "tune/search")
    begun = Manifest(stage="tune", config={"tune": {"num_trials": 4}}, inputs={})
    Path(folder).mkdir(parents=True)
    Path(folder, "wanted.json").write_text(json.dumps(dataclasses.asdict(begun)))
    stage.refuse_other_space(folder, begun)
    other = dataclasses.replace(begun, config={"tune": {"num_trials": 5}})
    with pytest.raises(ArtifactError, match=r"tune.num_trials: there 4, here 5.*another tune.name"):
        stage.refuse_other_space(folder, other)
