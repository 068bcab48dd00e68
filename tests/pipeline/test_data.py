"""Prepared examples and entropies side by side."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.errors import ArtifactError
from pipeline.train.data import load_training_data

RESPONSES = [3, 1, 4, 2, 5]


def write_artifact(folder: Path, stage: str, rows: list[dict[str, object]]) -> Manifest:
    """``rows`` in shards of two, an empty shard among them, and a file that is no shard."""
    files = {}
    for number, start in enumerate((0, 2, 4, len(rows))):
        part = rows[start : start + 2] if start < 4 else rows[start:]
        name = f"part-{number:05d}.parquet"
        path = storage.join(str(folder), name)
        storage.write_table(path, pa.Table.from_pylist(part, schema=_schema(stage)))
        files[name] = artifacts.file_entry(path, num_rows=len(part))
    storage.write_json(storage.join(str(folder), "recipe.json"), stage)
    files["recipe.json"] = artifacts.file_entry(storage.join(str(folder), "recipe.json"))
    return Manifest(stage=stage, config={}, inputs={"test": str(folder)}, files=files)


def _schema(stage: str) -> pa.Schema:
    lists = {"prepare": ("prompt_ids", "response_ids"), "reference": ("entropy", "tail_entropy")}
    kind = pa.int32() if stage == "prepare" else pa.float32()
    columns = [(name, pa.list_(kind)) for name in lists[stage]]
    return pa.schema([("example_id", pa.string()), *columns])


def prepared_rows() -> list[dict[str, object]]:
    return [
        {"example_id": f"e{i}", "prompt_ids": [9] * i, "response_ids": list(range(n))}
        for i, n in enumerate(RESPONSES)
    ]


def entropy_rows() -> list[dict[str, object]]:
    return [
        {"example_id": f"e{i}", "entropy": [i + 0.5] * n, "tail_entropy": [0.25]}
        for i, n in enumerate(RESPONSES)
    ]


def test_rows_of_both_artifacts_meet_in_one_example(tmp_path: Path) -> None:
    prepared = write_artifact(tmp_path / "prepared", "prepare", prepared_rows())
    entropies = write_artifact(tmp_path / "entropies", "reference", entropy_rows())
    folders = [str(tmp_path / name) for name in ("prepared", "entropies")]
    data = load_training_data(folders[0], prepared, folders[1], entropies)
    assert data.has_entropies
    assert data.example_ids == [f"e{i}" for i in range(5)]
    assert data.lengths.tolist() == [i + n for i, n in enumerate(RESPONSES)]
    example = data.example(3)
    assert (example.example_id, example.prompt_ids) == ("e3", [9, 9, 9])
    assert (example.response_ids, example.entropy) == ([0, 1], [3.5, 3.5])
    assert example.tail_entropy == [0.25]


def test_training_without_entropies_needs_the_prepared_rows_alone(tmp_path: Path) -> None:
    prepared = write_artifact(tmp_path, "prepare", prepared_rows())
    data = load_training_data(str(tmp_path), prepared, None, None)
    assert not data.has_entropies
    assert len(data) == 5
    assert data.example(4).entropy is None


@pytest.mark.parametrize("lost", [(2,), (0, 3, 4)])
def test_examples_without_entropies_are_left_out(tmp_path: Path, lost: tuple[int, ...]) -> None:
    prepared = write_artifact(tmp_path / "prepared", "prepare", prepared_rows())
    rows = entropy_rows()
    for number in lost:
        rows[number] |= {"entropy": None, "tail_entropy": None}
    entropies = write_artifact(tmp_path / "entropies", "reference", rows)
    folders = [str(tmp_path / name) for name in ("prepared", "entropies")]
    data = load_training_data(folders[0], prepared, folders[1], entropies)
    kept = [i for i in range(5) if i not in lost]
    assert len(data) == len(kept)
    assert data.example_ids == [f"e{i}" for i in kept]
    assert data.lengths.tolist() == [i + RESPONSES[i] for i in kept]
    assert [data.example(n).example_id for n in range(len(data))] == [f"e{i}" for i in kept]
    assert data.example(0).entropy == [kept[0] + 0.5] * RESPONSES[kept[0]]
    values = np.repeat([i + 0.5 for i in kept], [RESPONSES[i] for i in kept])
    assert data.dataset_beta_ref(1.0) == pytest.approx(values.mean(), rel=1e-6)


def test_dataset_beta_ref_is_the_mean_over_response_tokens(tmp_path: Path) -> None:
    prepared = write_artifact(tmp_path / "prepared", "prepare", prepared_rows())
    entropies = write_artifact(tmp_path / "entropies", "reference", entropy_rows())
    folders = [str(tmp_path / name) for name in ("prepared", "entropies")]
    data = load_training_data(folders[0], prepared, folders[1], entropies)
    values = np.repeat([0.5, 1.5, 2.5, 3.5, 4.5], RESPONSES)
    assert data.dataset_beta_ref(0.5) == pytest.approx(np.sqrt(values).mean(), rel=1e-6)
    assert data.dataset_beta_ref(0.0) == 1.0


@pytest.mark.parametrize("fault", ["order", "length"])
def test_entropies_of_other_rows_are_refused(tmp_path: Path, fault: str) -> None:
    rows = entropy_rows()
    if fault == "order":
        rows[0], rows[1] = rows[1], rows[0]
    else:
        rows[2]["entropy"] = [1.0]
    prepared = write_artifact(tmp_path / "prepared", "prepare", prepared_rows())
    entropies = write_artifact(tmp_path / "entropies", "reference", rows)
    folders = [str(tmp_path / name) for name in ("prepared", "entropies")]
    message = {
        "order": "its rows are not those of the prepared data; run jobs/reference.py --overwrite",
        "length": r"row 2: wanted 4 entropies \(one per response token\), got 1",
    }
    with pytest.raises(ArtifactError, match=message[fault]):
        load_training_data(folders[0], prepared, folders[1], entropies)
