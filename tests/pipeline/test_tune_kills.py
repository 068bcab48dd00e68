"""A real search whose driver is killed goes on to the end with the trials that it had."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.config_file import load_config
from pipeline.tune.records import TrialRecord, read_records
from tests.pipeline.processes import TIMEOUT_S, finish, start, wait_for

pytestmark = pytest.mark.long

CONFIG = """
[run]
output_dir = "{root}/run"

[data]
max_length = 192
num_shards = 2

[[data.sources]]
kind = "task"
task = "sudoku"
count = 40

[model]
path = "{model}"

[reference]
tail = 4
num_cpus = 1.0

[train]
epochs = 2
batch_size = 8
warmup_steps = 1
cpus_per_worker = 1.0
log_every = 1

[evaluate]
tasks = ["sudoku"]
num_items = 4
gen_lengths = [16]
block_length = 8
steps = 4
num_cpus = 1.0

[tune]
num_trials = 4
held_out = 16
num_measures = 3
scheduler = "none"
finalists = 1

[[tune.space]]
key = "rates.gamma"
values = [0.5, 1.0]

[[tune.space]]
key = "train.learning_rate"
low = 1e-4
high = 1e-2
log = true
"""


def by_name(records: list[TrialRecord]) -> dict[str, TrialRecord]:
    return {record.trial: record for record in records}


def test_a_killed_search_ends_with_the_same_trials(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(root=tmp_path, model=tiny_checkpoint))
    folder = tmp_path / "run" / "tune" / "search"
    process = start("tune", config)
    # One trial is over and another on its way.
    wait_for(lambda: any(r.is_over for r in read_records(str(folder))), process)
    wait_for(lambda: not all(r.is_over for r in read_records(str(folder))), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=TIMEOUT_S)
    before = by_name(read_records(str(folder)))
    assert artifacts.read_manifest(str(folder)) is None

    refused = start("tune", config, "--tune.num-trials", "5")
    output, _ = refused.communicate(timeout=TIMEOUT_S)
    assert refused.returncode == 2
    assert "tune.num_trials: there 4, here 5" in output

    output = finish("tune", config)
    after = by_name(read_records(str(folder)))
    assert len(after) == 4
    assert before.keys() <= after.keys()
    for name, record in before.items():
        assert after[name].number == record.number
        if record.is_over:
            assert after[name] == record
    assert all(record.status == "finished" for record in after.values())
    manifest = artifacts.read_manifest(str(folder))
    assert manifest is not None
    artifacts.verify_files(str(folder), manifest)
    assert len(list((folder / "checkpoints").iterdir())) == 1

    # Undisturbed, the same parameters give the same measures.
    finish("tune", config, "--tune.name", "again")
    again = by_name(read_records(str(tmp_path / "run" / "tune" / "again")))
    shared = before.keys() & again.keys()
    assert len(shared) >= 2
    for name in shared:
        measures = [[r["held_out_nelbo"] for r in x[name].reports] for x in (after, again)]
        assert measures[0] == measures[1]
    assert all(record.seconds_to_start is not None for record in again.values())

    # Trained on its own, the best configuration is a configuration like any other; two workers.
    best = folder / "best.toml"
    found = load_config(best)
    assert found.train.name == f"search-{manifest.facts['best']}"
    output = finish("train", best, "--train.num-workers", "2", "--train.held-out", "16")
    trained = artifacts.read_manifest(str(tmp_path / "run" / "checkpoints" / found.train.name))
    assert trained is not None
    nelbo = after[str(manifest.facts["best"])].nelbo
    assert trained.facts["held_out_nelbo"] == pytest.approx(nelbo, rel=1e-3)
    assert "is already finished" in finish("tune", config)


REFRESHED = """
[rates]
entropies = "refreshed"

[[tune.space]]
key = "rates.refresh_every"
values = [1, 2]
"""


def test_a_search_with_refreshes_is_interrupted_and_goes_on(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    text = CONFIG.format(root=tmp_path, model=tiny_checkpoint)
    config = tmp_path / "config.toml"
    config.write_text(text.partition("[[tune.space]]")[0] + REFRESHED)
    # Three steps an epoch: entropies of the weights after the first are used in the third.
    options = ("--tune.search", "grid", "--train.epochs", "3", "--tune.finalists", "0")
    folder = tmp_path / "run" / "tune" / "search"
    process = start("tune", config, *options)
    wait_for(lambda: any(r.reports for r in read_records(str(folder))), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, output
    assert "tune: interrupted; the same command goes on from there" in output
    records = read_records(str(folder))
    assert not any(record.status == "failed" for record in records)
    assert not all(record.is_over for record in records)
    assert artifacts.read_manifest(str(folder)) is None

    output = finish("tune", config, *options)
    records = read_records(str(folder))
    assert [record.status for record in records] == ["finished"] * 2
    assert output.count("step=6 entropies=") == 1


def test_a_time_budget_ends_a_search(tmp_path: Path, tiny_checkpoint: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(root=tmp_path, model=tiny_checkpoint))
    options = ("--tune.num-trials", "500", "--tune.search", "random", "--tune.max-concurrent", "1")
    process = start("tune", config, *options, "--tune.time-budget-s", "2")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    assert "2 s were too few for one trial of arm search" in output

    options = (*options, "--tune.name", "longer")
    folder = tmp_path / "run" / "tune" / "longer"
    began = time.monotonic()
    process = start("tune", config, *options)
    wait_for(lambda: any(r.is_over for r in read_records(str(folder))), process)
    seconds_of_one = time.monotonic() - began
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, output
    finish("tune", config, *options, "--tune.time-budget-s", f"{2 * seconds_of_one:.0f}")
    records = read_records(str(folder))
    assert "finished" in {record.status for record in records} <= {"finished", "stopped"}
    stopped = [record.reason for record in records if record.status == "stopped"]
    assert {*stopped} <= {"the time budget was over"}
    assert len(records) < 500
    assert artifacts.read_manifest(str(folder)) is not None
