"""Artifacts: whole or not there, refused when they do not fit, verified before they are read."""

import dataclasses
import json
import uuid

import pytest

from pipeline import artifacts, storage
from pipeline.artifacts import MANIFEST, FileEntry, Manifest
from pipeline.errors import ArtifactError

RECIPE = Manifest(
    stage="prepare",
    config={"data": {"seed": 0, "sources": [{"kind": "task"}]}, "name": "a"},
    inputs={"tokenizer": "1234"},
)


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path):
    """An artifact of two files."""
    address = f"{tmp_path}/run" if request.param == "local" else f"memory://{uuid.uuid4().hex}/run"
    names = ["part-0.bin", "rejected/part-0.bin"]
    for name in names:
        storage.write_bytes(storage.join(address, name), name.encode())
    files = {name: artifacts.file_entry(storage.join(address, name), num_rows=3) for name in names}
    made = {"num_rows": 3, "rejected": {"too_long": 2}, "facts": {"seconds": 1.5}}
    artifacts.commit(address, dataclasses.replace(RECIPE, files=files, **made))
    yield address
    storage.remove(address)


def damage(folder, name, content):
    storage.write_bytes(storage.join(folder, name), content)


def test_a_committed_manifest_reads_back_equal(folder):
    found = artifacts.read_manifest(folder)
    assert found.files["part-0.bin"] == FileEntry(
        sha256=storage.sha256(storage.join(folder, "part-0.bin")), num_bytes=10, num_rows=3
    )
    assert (found.num_rows, found.rejected) == (3, {"too_long": 2})
    assert found.recipe == RECIPE.recipe
    artifacts.commit(folder, found)
    assert artifacts.read_manifest(folder) == found


def test_a_folder_without_manifest_is_not_whole(folder):
    storage.remove(storage.join(folder, MANIFEST))
    assert artifacts.read_manifest(folder) is None
    assert not artifacts.is_done(folder, RECIPE, overwrite=False)
    with pytest.raises(ArtifactError, match=r"prepare artifact is incomplete.*run jobs/prepare"):
        artifacts.require(folder, "prepare", hint="run jobs/prepare.py")


def test_an_interrupted_commit_leaves_no_manifest(tmp_path, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ArtifactError, match="cannot be written"):
        artifacts.commit(str(tmp_path), RECIPE)
    assert artifacts.read_manifest(str(tmp_path)) is None
    assert storage.list_files(str(tmp_path)) == []


def test_require_says_what_is_missing_or_of_another_stage(folder):
    assert artifacts.require(folder, "prepare", hint="").recipe == RECIPE.recipe
    with pytest.raises(ArtifactError, match="wanted an artifact of stage train, got prepare; mend"):
        artifacts.require(folder, "train", hint="mend")
    with pytest.raises(ArtifactError, match="train artifact is missing; run jobs/train"):
        artifacts.require(storage.join(folder, "none"), "train", hint="run jobs/train.py")


def test_is_done_knows_its_own_output(folder):
    assert artifacts.is_done(folder, RECIPE, overwrite=False)
    # What came out, and how long it took, is no part of what was asked for.
    assert artifacts.is_done(
        folder, dataclasses.replace(RECIPE, num_rows=9, facts={"seconds": 2.0}), overwrite=False
    )


def test_is_done_takes_tuples_for_the_arrays_that_json_makes_of_them(folder):
    sources = ({"kind": "task"},)
    config = RECIPE.config | {"data": {"seed": 0, "sources": sources}}
    assert artifacts.is_done(folder, dataclasses.replace(RECIPE, config=config), overwrite=False)


def test_is_done_refuses_another_configuration_with_the_keys_that_differ(folder):
    config = {"data": RECIPE.config["data"] | {"seed": 1}, "extra": True, "name": "a"}
    wanted = dataclasses.replace(RECIPE, config=config, inputs={"tokenizer": "5678"})
    with pytest.raises(ArtifactError, match="output of another configuration") as caught:
        artifacts.is_done(folder, wanted, overwrite=False)
    message = str(caught.value)
    assert "config.data.seed: there 0, here 1" in message
    assert "config.extra: there None, here True" in message
    assert "inputs.tokenizer: there '1234', here '5678'" in message
    assert "config.name" not in message
    assert "config.data.sources" not in message
    assert "--overwrite" in message


def test_is_done_shows_few_of_many_differences(folder):
    wanted = dataclasses.replace(RECIPE, config=RECIPE.config | {f"k{n}": n for n in range(7)})
    with pytest.raises(ArtifactError, match=r"config\.k4.*; and 2 more\)"):
        artifacts.is_done(folder, wanted, overwrite=False)


def test_overwrite_is_never_done_and_loses_nothing_by_asking(folder):
    damage(folder, MANIFEST, b"{")
    before = storage.list_files(folder)
    assert not artifacts.is_done(folder, RECIPE, overwrite=True)
    assert storage.list_files(folder) == before


def test_clear_empties_the_folder_whatever_it_holds(folder):
    damage(folder, MANIFEST, b"{")
    artifacts.clear(folder)
    assert storage.list_files(folder) == []


def test_only_what_a_stage_wrote_may_be_replaced(folder):
    artifacts.require_replaceable(folder)
    storage.remove(folder)
    artifacts.require_replaceable(folder)
    storage.write_bytes(storage.join(folder, "thesis.tex"), b"x")
    with pytest.raises(ArtifactError, match=r"thesis\.tex, which no stage wrote"):
        artifacts.require_replaceable(folder)
    storage.write_json(storage.join(folder, artifacts.RECIPE), "recipe")
    artifacts.require_replaceable(folder)


def test_without_overwrite_remains_of_an_interrupted_run_stay(folder):
    storage.remove(storage.join(folder, MANIFEST))
    before = storage.list_files(folder)
    artifacts.is_done(folder, RECIPE, overwrite=False)
    assert storage.list_files(folder) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"part-", "truncated or changed"), (b"part-0.bim", "truncated or changed")],
)
def test_files_that_changed_are_refused_by_name(content, message, folder):
    artifacts.verify_files(folder, artifacts.read_manifest(folder))
    damage(folder, "part-0.bin", content)
    for check in (
        lambda: artifacts.verify_files(folder, artifacts.read_manifest(folder)),
        lambda: artifacts.is_done(folder, RECIPE, overwrite=False),
    ):
        with pytest.raises(ArtifactError, match=rf"/part-0\.bin: {message}.*--overwrite"):
            check()


def test_files_that_are_missing_are_refused_by_name(folder):
    storage.remove(storage.join(folder, "rejected/part-0.bin"))
    with pytest.raises(ArtifactError, match=r"rejected/part-0\.bin: missing.*--overwrite"):
        artifacts.verify_files(folder, artifacts.read_manifest(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: json.dumps(json.loads(text) | {"schema_version": 99}),
        lambda text: json.dumps(json.loads(text) | {"unknown": 1}),
        lambda text: json.dumps(json.loads(text) | {"files": 3}),
        lambda text: json.dumps(json.loads(text) | {"files": {"a": {"sha256": "x"}}}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "files"}),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "stage"}),
    ],
)
def test_damaged_manifests_are_user_errors(change, folder):
    path = storage.join(folder, MANIFEST)
    damage(folder, MANIFEST, change(storage.read_bytes(path).decode()).encode())
    with pytest.raises(ArtifactError) as caught:
        artifacts.read_manifest(folder)
    assert path in str(caught.value)


def test_recipe_depends_on_what_was_asked_for_alone():
    assert dataclasses.replace(RECIPE, num_rows=5, rejected={"a": 1}).recipe == RECIPE.recipe
    changes = [{"stage": "train"}, {"config": {}}, {"inputs": {}}, {"schema_version": 2}]
    recipes = {dataclasses.replace(RECIPE, **change).recipe for change in changes}
    assert len(recipes | {RECIPE.recipe}) == 5


def test_content_depends_on_the_bytes_of_every_file():
    one = {"a": FileEntry(sha256="1", num_bytes=1)}
    other = {"a": FileEntry(sha256="2", num_bytes=1)}
    contents = {dataclasses.replace(RECIPE, files=files).content for files in ({}, one, other)}
    assert len(contents) == 3


def test_fingerprint_is_canonical():
    assert artifacts.fingerprint({"b": 1, "a": [1, "é"]}) == artifacts.fingerprint(
        {"a": (1, "é"), "b": 1}
    )
    # The SHA-256 of "{}", worked out with sha256sum.
    assert artifacts.fingerprint({}) == "44136fa355b3678a"
