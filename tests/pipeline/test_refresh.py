"""Entropies recomputed beside the training: when they are used is fixed, however long they take."""

import contextlib
import dataclasses
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from pipeline import artifacts, prepare, storage
from pipeline.artifacts import Manifest
from pipeline.config import (
    DataSection,
    ModelSection,
    RatesSection,
    ReferenceSection,
    RunConfig,
    RunSection,
    SourceSection,
    TrainSection,
)
from pipeline.errors import ArtifactError, CheckpointError
from pipeline.layout import layout
from pipeline.models import open_denoiser, weights_fingerprint
from pipeline.prepare import stage as prepare_stage
from pipeline.reference import compute, wanted_manifest
from pipeline.reference.compute import EntropyJob
from pipeline.train import refresh
from pipeline.train.data import TrainingData
from pipeline.train.exports import export, export_folder, exported_steps, is_exported
from pipeline.train.held_out import open_data
from pipeline.train.refresh import (
    RefreshedData,
    refresh_folder,
    refresh_steps,
    refreshing,
    steps_seen,
)
from pipeline.train.stage import wanted_manifest as training_manifest
from pipeline.train.world import World


@pytest.mark.parametrize("unit", ["epochs", "steps"])
@pytest.mark.parametrize(
    ("every", "lag", "wanted"),
    [
        # Of epochs or steps 0, 1, 2, ...: after how many the weights were kept, worked out by hand.
        (1, 1, [0, 0, 1, 2, 3, 4, 5]),
        (1, 0, [0, 1, 2, 3, 4, 5, 6]),
        (1, 3, [0, 0, 0, 0, 1, 2, 3]),
        (2, 1, [0, 0, 0, 2, 2, 4, 4]),
        (3, 0, [0, 0, 0, 3, 3, 3, 6]),
    ],
)
def test_each_step_uses_the_entropies_that_the_plan_says(every, lag, wanted, unit) -> None:
    rates = RatesSection(
        entropies="refreshed", refresh_unit=unit, refresh_every=every, refresh_lag=lag
    )
    length = 10 if unit == "epochs" else 1
    seen = [steps_seen(rates, step, 10) for step in range(7 * length)]
    assert seen == [length * n for n in wanted for _ in range(length)]
    config = RunConfig(rates=rates)
    # The last epoch is cut short.
    num_steps = 63 if unit == "epochs" else 7
    assert refresh_steps(config, 10, num_steps) == sorted({*seen} - {0})
    kept = [step for step in range(1, 64) if is_exported(config, step, 10, num_steps)]
    assert kept == refresh_steps(config, 10, num_steps)


def test_frozen_entropies_are_never_refreshed_and_exports_are_by_step() -> None:
    config = RunConfig(train=TrainSection(export_every=20))
    assert refresh_steps(config, 10, 60) == []
    # The last one is the checkpoint itself.
    assert [step for step in range(1, 61) if is_exported(config, step, 10, 60)] == [20, 40]


@pytest.fixture
def config(tmp_path: Path, tiny_checkpoint: Path, monkeypatch) -> RunConfig:
    """A run with prepared data and the base model's entropies; shards are made in this process."""

    def run_shards(make_task, rows, workers):
        return map(make_task(), rows)

    for module in (prepare_stage, compute):
        monkeypatch.setattr(module, "run_shards", run_shards)
    monkeypatch.setattr(prepare_stage, "ray_session", lambda **cpus: contextlib.nullcontext())
    monkeypatch.setattr(refresh, "_POLL_S", 0.01)
    config = RunConfig(
        run=RunSection(output_dir=str(tmp_path / "run")),
        data=DataSection(
            sources=(SourceSection(kind="task", task="sudoku", count=8),),
            max_length=192,
            num_shards=2,
        ),
        model=ModelSection(path=str(tiny_checkpoint)),
        rates=RatesSection(entropies="refreshed", refresh_lag=0),
        reference=ReferenceSection(tail=2),
        train=TrainSection(batch_size=4, epochs=3, warmup_steps=1),
    )
    prepare.run(config)
    compute_base(config)
    return config


def compute_base(config: RunConfig) -> Manifest:
    prepared = artifacts.require(layout(config).prepared, "prepare", hint="")
    job = EntropyJob(config, config.model.path, layout(config).entropies)
    return compute.compute(job, wanted_manifest(config, prepared), prepared)


def keep_changed_weights(config: RunConfig, checkpoint: str, step: int) -> str:
    """What training would leave after ``step``: the base's weights, a little off."""
    denoiser = open_denoiser(config.model.path)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.01 * step)
    folder = export_folder(checkpoint, step)
    export(denoiser, config, World(), folder, training_manifest(config), step)
    return folder


def entropies_of(data: TrainingData) -> list[list[float]]:
    return [data.example(n).entropy for n in range(len(data))]


def test_entropies_are_computed_beside_the_training_and_used_when_they_are_due(
    config: RunConfig, tmp_path: Path
) -> None:
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    data_of = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    with refreshing(config, checkpoint, 2, 6):
        base = entropies_of(data_of(0))
        first = keep_changed_weights(config, checkpoint, 2)
        after_one = entropies_of(data_of(2))  # waits
        keep_changed_weights(config, checkpoint, 4)
        after_two = entropies_of(data_of(4))
    assert exported_steps(checkpoint) == [2, 4]
    assert base != after_one != after_two
    found = artifacts.require(refresh_folder(checkpoint, 2), "reference", hint="")
    assert found.inputs["weights"] == weights_fingerprint(first)
    # Continued in the middle of epoch 1, the run reads the same again.
    again = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    assert entropies_of(again(3)) == after_one
    # And a job that finds everything there computes nothing.
    with refreshing(config, checkpoint, 2, 6):
        time.sleep(0.2)
    assert artifacts.require(refresh_folder(checkpoint, 2), "reference", hint="") == found


def test_a_late_reference_job_changes_nothing_but_the_time(
    config: RunConfig, tmp_path: Path, monkeypatch
) -> None:
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    keep_changed_weights(config, checkpoint, 2)
    is_allowed = threading.Event()
    compute_now = refresh._compute

    def compute_late(*args):
        is_allowed.wait()
        compute_now(*args)

    monkeypatch.setattr(refresh, "_compute", compute_late)
    data_of = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    found = []
    with refreshing(config, checkpoint, 2, 4):
        waiting = threading.Thread(target=lambda: found.append(entropies_of(data_of(2))))
        waiting.start()
        waiting.join(timeout=0.3)
        assert waiting.is_alive()
        is_allowed.set()
        waiting.join()
    # As if it had been there all along.
    early = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    assert found == [entropies_of(early(2))]


def test_a_reference_job_that_fails_ends_the_training_with_its_message(
    config: RunConfig, tmp_path: Path
) -> None:
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    folder = keep_changed_weights(config, checkpoint, 2)
    (Path(folder) / "model.safetensors").write_bytes(b"torn")
    data_of = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    with (
        refreshing(config, checkpoint, 2, 4),
        pytest.raises(CheckpointError, match=r"model\.safetensors: truncated or changed"),
    ):
        data_of(2)


def test_weights_without_finite_entropies_end_the_training(
    config: RunConfig, tmp_path: Path
) -> None:
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    denoiser = open_denoiser(config.model.path)
    with torch.no_grad():
        next(denoiser.parameters()).fill_(float("nan"))
    wanted = training_manifest(config)
    export(denoiser, config, World(), export_folder(checkpoint, 2), wanted, 2)
    data_of = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    with refreshing(config, checkpoint, 2, 4), pytest.raises(CheckpointError, match="not one ex"):
        data_of(2)


def test_a_refresh_that_loses_an_example_ends_the_training(
    config: RunConfig, tmp_path: Path
) -> None:
    """The plan has every example that the first epoch had."""
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    keep_changed_weights(config, checkpoint, 2)
    first = open_data(config, uses_entropies=True)
    with refreshing(config, checkpoint, 2, 4):
        RefreshedData(config, checkpoint, first, 2)(2)
    path = Path(refresh_folder(checkpoint, 2)) / "part-00001.parquet"
    table = storage.read_table(str(path))
    rows = table.to_pylist()
    rows[0] |= {"entropy": None, "tail_entropy": None}
    storage.write_table(str(path), pa.Table.from_pylist(rows, schema=table.schema))
    found = artifacts.read_manifest(refresh_folder(checkpoint, 2))
    entry = artifacts.file_entry(str(path), num_rows=len(rows))
    files = found.files | {"part-00001.parquet": entry}
    artifacts.commit(refresh_folder(checkpoint, 2), dataclasses.replace(found, files=files))
    with pytest.raises(CheckpointError, match="for 1; training diverged"):
        RefreshedData(config, checkpoint, first, 2)(2)


def test_an_export_that_is_there_is_kept(config: RunConfig, tmp_path: Path) -> None:
    """Its entropies may be in use, and a resumed run need not have the same bits."""
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    folder = Path(keep_changed_weights(config, checkpoint, 2))
    before = (folder / "model.safetensors").read_bytes()
    denoiser = open_denoiser(config.model.path)
    export(denoiser, config, World(), str(folder), training_manifest(config), 2)
    assert (folder / "model.safetensors").read_bytes() == before
    (folder / "manifest.json").unlink()  # half of one is made again
    export(denoiser, config, World(), str(folder), training_manifest(config), 2)
    assert (folder / "model.safetensors").read_bytes() != before


def test_storage_that_fails_in_the_refresh_ends_the_training(
    config: RunConfig, tmp_path: Path, monkeypatch
) -> None:
    checkpoint = str(tmp_path / "run" / "checkpoints" / "weft")
    read = artifacts.read_manifest

    def fail_on_exports(folder):
        if "exports" in folder:
            raise ArtifactError(f"{folder}: cannot be read: 503")
        return read(folder)

    monkeypatch.setattr(refresh.artifacts, "read_manifest", fail_on_exports)
    data_of = RefreshedData(config, checkpoint, open_data(config, uses_entropies=True), 2)
    with refreshing(config, checkpoint, 2, 4), pytest.raises(CheckpointError, match="read: 503"):
        data_of(2)


def test_examples_that_the_base_gives_no_entropies_are_left_out(config: RunConfig) -> None:
    prepared = artifacts.require(layout(config).prepared, "prepare", hint="")
    folder = Path(layout(config).entropies)
    name = prepared.shards[0]
    table = storage.read_table(str(folder / name))
    rows = table.to_pylist()
    rows[1] |= {"entropy": None, "tail_entropy": None}
    storage.write_table(str(folder / name), pa.Table.from_pylist(rows, schema=table.schema))
    (folder / "manifest.json").unlink()
    found = compute_base(config)  # continues: the shard is whole
    assert found.rejected == {"not_finite": 1}
    data = open_data(config, uses_entropies=True)
    assert len(data) == prepared.num_rows - 1
    assert rows[1]["example_id"] not in data.example_ids
    # A refresh that gives this example entropies does not bring it back: the plan is without it.
    checkpoint = str(Path(config.run.output_dir) / "checkpoints" / "weft")
    keep_changed_weights(config, checkpoint, 1)
    with refreshing(config, checkpoint, 1, 2):
        refreshed = RefreshedData(config, checkpoint, data, 1)(1)
    assert refreshed.example_ids == data.example_ids
    assert (refreshed.lengths == data.lengths).all()
    for number in range(len(data)):
        one, other = data.example(number), refreshed.example(number)
        assert (one.example_id, one.response_ids) == (other.example_id, other.response_ids)
        assert one.entropy != other.entropy
    sft = dataclasses.replace(config, rates=RatesSection(gamma=0.0))
    assert len(open_data(sft, uses_entropies=False)) == prepared.num_rows
