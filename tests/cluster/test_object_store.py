"""A run whose artifacts and states lie in an object store that fails for some seconds."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.config_file import load_config
from pipeline.graph.arguments import arguments_of
from pipeline.graph.steps import steps_of
from tests.cluster.conftest import Run
from tests.cluster.object_store import BUCKET, ObjectStore
from tests.cluster.raylets import Raylets
from tests.cluster.workload import (
    CONFIG,
    check_whole,
    content,
    generations_of,
    measures,
    rows,
    weights,
)
from tests.pipeline.processes import TIMEOUT_S, start, wait_for

pytestmark = pytest.mark.cluster

AWAY_S = 3.0
ROOT = f"s3://{BUCKET}/run"


def away(store: ObjectStore) -> None:
    """Every request fails for some seconds; some were made."""
    before, store.is_away = store.num_refused, True
    time.sleep(AWAY_S)
    store.is_away = False
    assert store.num_refused > before


def run_disturbed(
    stage: str,
    begun: str,
    store: ObjectStore,
    cluster: Raylets,
    *settings: str,
    is_killed: bool = False,
) -> None:
    """The stage to its end; the store goes away once something like ``begun`` lies there.

    With ``is_killed`` the driver goes as well, and is started again. An empty ``begun`` means the
    first request.
    """
    arguments = ("--run.output-dir", ROOT, *settings)
    env = cluster.env | store.env
    before = store.num_answered
    process = start(stage, CONFIG, *arguments, env=env)
    files = store.files
    if begun:
        wait_for(lambda: files.glob(f"{BUCKET}/run/{begun}", refresh=True), process)
    else:
        wait_for(lambda: store.num_answered > before, process)
    away(store)
    if is_killed:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == -signal.SIGKILL
        process = start(stage, CONFIG, *arguments, env=env)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output


def test_storage_that_fails_for_some_seconds_costs_nothing(
    unused: Raylets, store: ObjectStore, undisturbed: Run, tmp_path: Path
) -> None:
    run_disturbed("prepare", "prepared/drafts/*.parquet", store, unused)
    run_disturbed("reference", "entropies/part-*", store, unused)
    states = "checkpoints/weft/state/*/last_state.json"
    run_disturbed("train", states, store, unused, is_killed=True)
    run_disturbed("evaluate", "evaluations/**/parts/*.parquet", store, unused)
    store.copy_to("run", tmp_path / "run")
    root = tmp_path / "run"
    check_whole(root)
    for name in ("prepared", "entropies"):
        assert content(root / name) == content(undisturbed.root / name)
    assert weights(root) == weights(undisturbed.root)
    found, wanted = rows(root), rows(undisturbed.root)
    assert {*found.values()} == {1}
    assert {*found} == {key for key in wanted if _is_made(key)}
    assert generations_of(root).items() <= generations_of(undisturbed.root).items()


@pytest.mark.long
def test_a_search_and_a_report_outlast_it_as_well(
    unused: Raylets, store: ObjectStore, undisturbed: Run, tmp_path: Path
) -> None:
    for name in ("prepared", "entropies"):
        store.copy_from(undisturbed.root / name, f"run/{name}")
    (search,) = [step for step in steps_of(load_config(CONFIG)) if step.stage == "tune"]
    settings = arguments_of(search, str(CONFIG))[2:]
    run_disturbed("tune", "tune/search/trials/*.json", store, unused, *settings)
    run_disturbed("report", "", store, unused)
    store.copy_to("run", tmp_path / "run")
    check_whole(tmp_path / "run")
    assert measures(tmp_path / "run") == measures(undisturbed.root)
    assert "search" in (tmp_path / "run" / "report" / "index.html").read_text()


def _is_made(row: tuple[str, ...]) -> bool:
    """Whether this run makes it: it searches nothing, and evaluates the base alone."""
    return row[0] in ("prepare", "reference") or row[:2] == ("evaluate", "tiny")
