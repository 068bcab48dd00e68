"""Where metrics of a training go: real MLflow and Weights & Biases, on local storage."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Manifest
from pipeline.config import RunConfig, TrackingSection
from pipeline.errors import ConfigError
from pipeline.train import trackers
from pipeline.train.trackers import check_trackers, open_trackers

WANTED = Manifest(stage="train", config={"rates": {"gamma": 0.5}, "run": {"seed": 0}}, inputs={})
VALUES = [{"loss": 1.0, "nll": 2.0}, {"loss": 0.5, "nll": 1.0}, {"loss": 0.25, "nll": 0.5}]


def config_of(**tracking: object) -> RunConfig:
    base = RunConfig()
    section = TrackingSection(**{"prometheus": False, **tracking})  # type: ignore[arg-type]
    return replace(base, tracking=section, train=replace(base.train, name="weft"))


def follow(config: RunConfig, folder: Path, *, first: int, last: int) -> None:
    """Steps ``first`` to ``last`` of a training that continues from the step before."""
    found = open_trackers(config, str(folder), WANTED, step=first - 1)
    for step in range(first, last + 1):
        for tracker in found:
            tracker.log(step, VALUES[step - 1])
    for tracker in found:
        tracker.close()


def test_tensorboard_shows_each_step_once_after_an_interruption(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    follow(config_of(), tmp_path, first=1, last=3)
    follow(config_of(), tmp_path, first=2, last=3)  # the state was that of step 1
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    shown = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert shown == [(1, 1.0), (2, 0.5), (3, 0.25)]


def test_a_training_is_one_run_of_mlflow_however_often_it_is_continued(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    config = config_of(mlflow_uri=uri, mlflow_experiment="tiny")
    follow(config, tmp_path, first=1, last=2)
    follow(config, tmp_path, first=2, last=3)
    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert run.info.run_name == "weft"
    assert run.info.status == "FINISHED"
    assert run.data.params["rates.gamma"] == "0.5"
    assert run.data.tags["weft.recipe"] == WANTED.recipe
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {1: 1.0, 2: 0.5, 3: 0.25}


def test_weights_and_biases_gets_the_run_under_its_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    log, logged = wandb.Run.log, list[tuple[int, float]]()

    def spy(run: wandb.Run, values: dict[str, float], step: int) -> None:
        logged.append((step, values["loss"]))
        log(run, values, step=step)

    monkeypatch.setattr(wandb.Run, "log", spy)
    follow(config_of(wandb_project="weft"), tmp_path, first=1, last=3)
    assert logged == [(1, 1.0), (2, 0.5), (3, 0.25)]
    # Its own process writes the run, perhaps a little later.
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{WANTED.recipe}/*.wandb"))


def test_a_service_that_fails_is_named_once_and_the_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        def log(self, step: int, values: dict[str, float]) -> None:
            raise ConnectionError("gone")

        def close(self) -> None:
            raise ConnectionError("still gone")

    monkeypatch.setattr(trackers, "_TensorBoard", lambda *arguments: Broken())
    unreachable = config_of(mlflow_uri="nonsense://x")
    with caplog.at_level(logging.WARNING, "pipeline.train.trackers"):
        follow(unreachable, tmp_path, first=1, last=3)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert "mlflow is left out" in said[0]
    assert "tensorboard does not take metrics, and gets no more: gone" in said[1]


def test_a_missing_package_is_an_error_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_trackers(config_of(wandb_project="weft", mlflow_uri="http://127.0.0.1:5000"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"weft\[wandb\]"):
        check_trackers(config_of(wandb_project="weft"))
    check_trackers(config_of())
