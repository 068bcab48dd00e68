"""The part of this folder's tests that always runs: a stage loses a machine on the way."""

from pathlib import Path

from pipeline import artifacts
from tests.cluster.raylets import raylets
from tests.cluster.workload import CONFIG, check_whole, rows
from tests.pipeline.processes import TIMEOUT_S, finish, start, wait_for


def test_a_stage_that_loses_a_machine_loses_nothing(tmp_path_factory) -> None:
    folder: Path = tmp_path_factory.mktemp("ray")
    root = folder / "run"
    arguments = ("--run.output-dir", str(root), "--data.num-shards", "4")
    with raylets(folder, num_nodes=2) as cluster:
        finish("prepare", CONFIG, *arguments, env=cluster.env)
        process = start("reference", CONFIG, *arguments, env=cluster.env)
        wait_for(lambda: list(root.glob("entropies/part-*.parquet")), process)
        worker = next(iter(cluster.workers("ray::MapWorker")))
        cluster.kill_node(cluster.node_of(worker))
        output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, output
    check_whole(root)
    assert artifacts.read_manifest(str(root / "entropies")) is not None
    found = rows(root)
    assert {*found.values()} == {1}
    prepared, entropies = (
        {row[1] for row in found if row[0] == stage} for stage in ("prepare", "reference")
    )
    assert prepared == entropies
