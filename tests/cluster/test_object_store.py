"""A run whose artifacts and states lie in an object store that fails for some seconds."""

import time
from pathlib import Path

import pytest

from tests.cluster.conftest import Run
from tests.cluster.object_store import BUCKET, ObjectStore, object_store
from tests.cluster.raylets import Raylets, raylets
from tests.cluster.workload import CONFIG, check_whole, content, rows, weights
from tests.pipeline.processes import TIMEOUT_S, finish, start, wait_for

pytestmark = pytest.mark.cluster

AWAY_S = 8.0
ROOT = f"s3://{BUCKET}/run"


def away(store: ObjectStore) -> None:
    """Every request fails for some seconds; some were made."""
    before, store.is_away = store.num_refused, True
    time.sleep(AWAY_S)
    store.is_away = False
    assert store.num_refused > before


def run_disturbed(stage: str, begun: str, store: ObjectStore, cluster: Raylets) -> str:
    """The stage to its end; the store goes away once something like ``begun`` lies there."""
    env = cluster.env | store.env
    process = start(stage, CONFIG, "--run.output-dir", ROOT, env=env)
    files = store.files
    wait_for(lambda: files.glob(f"{BUCKET}/run/{begun}", refresh=True), process)
    away(store)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    return output


def test_storage_that_fails_for_some_seconds_costs_nothing(
    undisturbed: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with (
        object_store() as store,
        raylets(tmp_path_factory.mktemp("ray"), num_nodes=2, env=store.env) as cluster,
    ):
        finish("prepare", CONFIG, "--run.output-dir", ROOT, env=cluster.env | store.env)
        run_disturbed("reference", "entropies/part-*", store, cluster)
        run_disturbed("train", "checkpoints/weft/state/*/last_state.json", store, cluster)
        store.copy_to("run", tmp_path / "run")
    check_whole(tmp_path / "run")
    for name in ("prepared", "entropies"):
        assert content(tmp_path / "run" / name) == content(undisturbed.root / name)
    assert weights(tmp_path / "run") == weights(undisturbed.root)
    found = rows(tmp_path / "run")
    assert found == {key: 1 for key in rows(undisturbed.root) if key[0] in ("prepare", "reference")}
