"""Data sets of Hugging Face datasets: folders and saved ones; the hub itself is out of reach."""

import json

import datasets
import pytest

from pipeline.config import DataSection, SourceSection
from pipeline.errors import DataError
from pipeline.sources import open_source

ROWS = [{"question": f"q{n}", "thinking_trajectories": ["t"], "attempt": f"a{n}"} for n in range(9)]


@pytest.fixture(autouse=True)
def _offline(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(params=["folder", "streamed folder", "saved", "saved with splits"])
def source(request, tmp_path):
    folder = tmp_path / "s1k"
    table = datasets.Dataset.from_list(ROWS)
    if request.param == "saved":
        table.save_to_disk(folder)
    elif request.param == "saved with splits":
        datasets.DatasetDict({"train": table}).save_to_disk(folder)
    else:
        folder.mkdir()
        table.select(range(5)).to_parquet(folder / "train-0.parquet")
        table.select(range(5, 9)).to_parquet(folder / "train-1.parquet")
    streaming = request.param == "streamed folder"
    section = SourceSection(kind="hub", path=str(folder), format="s1k", streaming=streaming)
    return open_source(DataSection(), section)


def test_rows_and_slices_are_those_of_the_data_set(source):
    (part,) = source.survey()
    assert (source.name, part.num_rows) == ("s1k", 9)
    rows = list(source.rows(part, 0, 0, 9))
    assert [(row.question, row.answer) for row in rows] == [(f"q{n}", f"a{n}") for n in range(9)]
    assert [row.position for row in rows] == list(range(1, 10))
    assert list(source.rows(part, 0, 4, 7)) == rows[4:7]
    assert source.survey() == [part]


def test_a_folder_is_known_by_its_content(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    section = SourceSection(kind="hub", path=str(folder), format="gsm8k", streaming=True)
    found = []
    for answer in ("#### 4", "#### 5", "#### 4"):
        (folder / "train.jsonl").write_text(json.dumps({"question": "2+2?", "answer": answer}))
        found.append(open_source(DataSection(), section).survey()[0].fingerprint)
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "test"}, r"split test\).*Unknown split"),
        ({"path": "no/such/folder"}, "datasets cannot load it .* give the folder as path"),
        ({"format": "gsm8k"}, "wanted the columns answer, got question, thinking_trajectories"),
    ],
)
def test_what_cannot_be_loaded_is_named_with_the_remedy(source, keys, message):
    if source._is_saved and "split" in keys:
        pytest.skip("a saved data set has the splits that it was saved with")
    values = {"kind": "hub", "path": source.section.path, "format": "s1k"} | keys
    with pytest.raises(DataError, match=message):
        open_source(DataSection(), SourceSection(**values)).survey()


def test_a_hub_that_cannot_be_reached_is_named_with_the_remedy(monkeypatch):
    """Without a network, or as if there were none."""
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    section = SourceSection(kind="hub", path="simplescaling/s1K", format="s1k", revision="v1")
    with pytest.raises(DataError, match=r"simplescaling/s1K \(split train\), v1: .*save_to_disk"):
        open_source(DataSection(), section).survey()
