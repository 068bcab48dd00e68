"""Files are written whole or not at all, and mean the same locally and on other file systems."""

import os
import uuid
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import storage
from pipeline.errors import ArtifactError


@pytest.fixture(params=["local", "file", "memory"])
def folder(request, tmp_path):
    """A folder that is not there yet, on each kind of file system."""
    if request.param == "memory":
        address = f"memory://{uuid.uuid4().hex}/run"
        yield address
        storage.remove(address)
    else:
        yield f"file://{tmp_path}/run" if request.param == "file" else f"{tmp_path}/run"


def test_bytes_come_back_as_written(folder):
    path = storage.join(folder, "deep", "data.bin")
    storage.write_bytes(path, b"\x00first")
    storage.write_bytes(path, b"\x00second")
    assert storage.read_bytes(path) == b"\x00second"
    with storage.open_binary(path) as file:
        assert file.read(3) == b"\x00se"


def test_list_files_names_the_entries_in_order(folder):
    assert storage.list_files(folder) == []
    for name in ("b.txt", "a.txt", "inner/c.txt"):
        storage.write_bytes(storage.join(folder, name), b"x")
    assert storage.list_files(folder) == ["a.txt", "b.txt", "inner"]


def test_what_a_killed_write_left_is_not_listed(tmp_path):
    storage.write_bytes(str(tmp_path / "whole.bin"), b"x")
    (tmp_path / f"half.bin.0123abcd{storage._TEMPORARY}").write_bytes(b"x")
    assert storage.list_files(str(tmp_path)) == ["whole.bin"]


def test_the_mark_of_a_folder_is_none_of_its_entries():
    """An object store has no folders; what makes one leaves an empty object of its name."""
    fs = fsspec.filesystem("memory")
    listed = ["/marked/state/", "/marked/state/a.json", "/marked/state/b"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fs, "ls", lambda path, detail: listed)
        patch.setattr(fs, "exists", lambda path: True)
        assert storage.list_files("memory://marked/state") == ["a.json", "b"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def die(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(tmp_path / "half.bin"), b"x")
    assert list(tmp_path.iterdir()) == []


class ClientError(Exception):
    """What a client of object storage lets through."""

    __module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    ("message", "calls"), [("Could not connect", 5), ("Unable to locate credentials", 1)]
)
def test_errors_of_a_storage_client_are_reported_and_tried_again(monkeypatch, message, calls):
    monkeypatch.setattr(storage, "_FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(storage, "_LONGEST_WAIT_S", 0.0)
    asked = []

    def fail(self, path, **options):
        asked.append(path)
        raise ClientError(message)

    monkeypatch.setattr(MemoryFileSystem, "exists", fail)
    with pytest.raises(ArtifactError, match=rf"memory://bucket/a: .*ClientError: {message}"):
        storage.exists("memory://bucket/a")
    assert len(asked) == calls


def test_remove_deletes_files_and_folders_and_forgives_absence(folder):
    path = storage.join(folder, "inner", "a.txt")
    storage.write_bytes(path, b"x")
    storage.write_bytes(storage.join(folder, "b.txt"), b"x")
    storage.remove(storage.join(folder, "b.txt"))
    assert storage.list_files(folder) == ["inner"]
    storage.remove(folder)
    storage.remove(folder)
    assert not storage.exists(path)
    assert not storage.exists(folder)


def test_json_comes_back_and_is_written_in_one_way(folder):
    path = storage.join(folder, "value.json")
    storage.write_json(path, {"b": [1, 2.5], "a": "é"})
    assert storage.read_json(path) == {"a": "é", "b": [1, 2.5]}
    first = storage.read_bytes(path)
    storage.write_json(path, {"a": "é", "b": [1, 2.5]})
    assert storage.read_bytes(path) == first


def test_tables_come_back_and_equal_tables_have_equal_bytes(folder):
    def table():
        return pa.table({"ids": pa.array([[1, 2], []], pa.list_(pa.int32())), "text": ["a", "é"]})

    path = storage.join(folder, "part.parquet")
    storage.write_table(path, table())
    first = storage.read_bytes(path)
    storage.write_table(path, table())
    assert storage.read_bytes(path) == first
    assert storage.read_table(path).equals(table())


@pytest.mark.parametrize("read", [storage.read_bytes, storage.read_json, storage.read_table])
def test_missing_files_are_named(read, folder):
    with pytest.raises(ArtifactError, match="nothing-here: cannot be read"):
        read(storage.join(folder, "nothing-here"))


@pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b""])
def test_damaged_json_is_named(content, folder):
    path = storage.join(folder, "value.json")
    storage.write_bytes(path, content)
    with pytest.raises(ArtifactError, match="not valid JSON") as caught:
        storage.read_json(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_tables_are_named_with_the_remedy(keep, folder):
    path = storage.join(folder, "part.parquet")
    storage.write_table(path, pa.table({"a": list(range(100))}))
    storage.write_bytes(path, storage.read_bytes(path)[:keep])
    with pytest.raises(ArtifactError, match=r"not a whole Parquet file .*--overwrite") as caught:
        storage.read_table(path)
    assert path in str(caught.value)


def test_sha256_is_that_of_the_bytes_over_many_chunks(folder):
    # FIPS 180-4's example: one million times the letter a.
    path = storage.join(folder, "a.txt")
    storage.write_bytes(path, b"a" * 1_000_000)
    digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    assert storage.sha256(path) == digest
    storage.write_bytes(path, b"a" * (3 << 20))
    assert storage.sha256(path) != digest


def test_a_write_that_fails_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "data.bin"
    storage.write_bytes(str(path), b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    for target in (path, tmp_path / "new.bin"):
        with pytest.raises(ArtifactError, match="cannot be written: No space left on device"):
            storage.write_bytes(str(target), b"new content")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="cannot be written"):
        storage.write_bytes(str(tmp_path / "file" / "data.bin"), b"x")


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (("/a/", "/b/", "c"), "/a/b/c"),
        (("s3://bucket/run/", "part"), "s3://bucket/run/part"),
        (("relative",), "relative"),
    ],
)
def test_join_puts_one_slash_between_the_parts(path, parts):
    assert storage.join(*path) == parts


def test_resolve_makes_local_paths_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert storage.resolve("runs/x") == str(tmp_path / "runs/x")
    assert storage.resolve("/runs/x") == "/runs/x"
    assert storage.resolve("~/x") == "/home/somebody/x"
    assert storage.resolve("s3://bucket/run/") == "s3://bucket/run"


def test_resolve_in_a_submitted_job_leaves_the_folder_that_is_deleted_later(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.setenv("WEFT_HOME", "/results")
    assert storage.resolve("runs/x") == "/results/runs/x"
    monkeypatch.delenv("WEFT_HOME")
    assert storage.resolve("runs/x") == str(Path("~/weft/runs/x").expanduser())
    assert storage.resolve("/runs/x") == "/runs/x"


def test_addresses_without_a_file_system_are_user_errors():
    assert "nosuch" not in fsspec.available_protocols()
    with pytest.raises(ArtifactError, match="nosuch://run: no file system for this address"):
        storage.exists("nosuch://run")
