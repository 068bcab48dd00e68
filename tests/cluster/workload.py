"""A small run through all stages, and what must be the same whatever happened to it."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from pipeline import artifacts
from pipeline.layout import TRIALS_FILE
from tests.cluster.raylets import Raylets
from tests.pipeline.processes import TIMEOUT_S

STAGES = ("prepare", "reference", "train", "tune", "evaluate", "report")
CONFIG = Path(__file__).with_name("workload.toml")
_REPOSITORY = Path(__file__).resolve().parents[2]


def submit(
    cluster: Raylets, stage: str, *arguments: str, config: Path = CONFIG
) -> "subprocess.CompletedProcess[str]":
    """Run a job of this project on the cluster, as the README says."""
    is_inside = config.is_relative_to(_REPOSITORY)
    file = config.relative_to(_REPOSITORY) if is_inside else config
    entrypoint = (f"jobs/{stage}.py", "--config", str(file), *arguments)
    ray = str(Path(sys.executable).parent / "ray")
    return subprocess.run(
        [ray, "job", "submit", "--working-dir", ".", "--", "python", *entrypoint],
        cwd=_REPOSITORY,
        env=os.environ | cluster.job_env,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def weights(root: Path, name: str = "weft") -> bytes:
    """Of a trained checkpoint."""
    return (root / "checkpoints" / name / "model.safetensors").read_bytes()


def content(folder: Path) -> str:
    """Fingerprint of a whole artifact."""
    manifest = artifacts.read_manifest(str(folder))
    assert manifest is not None
    return manifest.content


def rows(root: Path) -> Counter[tuple[str, ...]]:
    """Every row of a run's artifacts, by what identifies it."""
    found: Counter[tuple[str, ...]] = Counter()
    for folder in _artifacts(root):
        stage = artifacts.read_manifest(str(folder)).stage  # type: ignore[union-attr]
        keys = {
            "prepare": ["example_id"],
            "reference": ["example_id"],
            "evaluate": ["checkpoint", "task", "item_id"],
            "tune": ["trial"],
        }.get(stage, [])
        names = [TRIALS_FILE] if stage == "tune" else [f.name for f in folder.glob("*.parquet")]
        for name in names if keys else ():
            table = pq.read_table(folder / name, columns=keys).to_pylist()
            found.update((stage, *(Path(str(row[key])).name for key in keys)) for row in table)
    return found


def generations_of(root: Path) -> dict[tuple[str, str], str]:
    """What was decoded, by checkpoint and item."""
    columns = ["checkpoint", "item_id", "generation"]
    found = {}
    for file in sorted(root.glob("evaluations/**/*.parquet")):
        for row in pq.read_table(file, columns=columns).to_pylist():
            found[Path(row["checkpoint"]).name, row["item_id"]] = row["generation"]
    return found


def check_whole(root: Path) -> None:
    """Whatever a reader sees there is whole: every artifact has all of its files as committed."""
    for folder in _artifacts(root):
        manifest = artifacts.read_manifest(str(folder))
        assert manifest is not None
        artifacts.verify_files(str(folder), manifest)


def check_same(root: Path, undisturbed: Path) -> None:
    """The run in ``root`` came to what the undisturbed one came to."""
    check_whole(root)
    assert rows(root) == rows(undisturbed)
    for name in ("prepared", "entropies"):
        assert content(root / name) == content(undisturbed / name)
    assert weights(root) == weights(undisturbed)
    assert generations_of(root) == generations_of(undisturbed)
    assert measures(root) == measures(undisturbed)
    assert list(root.rglob("*.tmp")) == []


def _artifacts(root: Path) -> Iterator[Path]:
    for manifest in sorted(root.rglob("manifest.json")):
        yield manifest.parent


def measures(root: Path) -> dict[str, float]:
    """What a search measured, by trial."""
    rows = pq.read_table(root / "tune" / "search" / TRIALS_FILE).to_pylist()
    return {row["trial"]: row["nelbo"] for row in rows}
