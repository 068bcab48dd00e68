"""Checkpoints on object storage: copied once to this machine, then read as any folder."""

import fnmatch
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address such as ``s3://bucket/checkpoint``."""
    return "://" in path


def fetch(address: str, patterns: Sequence[str]) -> Path:
    """A local folder with the files of the remote one at ``address`` that match ``patterns``.

    It lies under ``$WEFT_CACHE``, by default ``~/.cache/weft``, under a name of its own for each
    content: a checkpoint that was written anew is fetched anew. Raises ValueError where there is
    nothing, or no file system for the address.
    """
    import fsspec

    try:
        fs, inner = fsspec.core.url_to_fs(address)
        fs.invalidate_cache()
        listed = sorted(fs.ls(inner, detail=True), key=lambda entry: str(entry["name"]))
    except (OSError, ImportError, ValueError) as error:
        raise ValueError(f"{address}: the checkpoint cannot be read: {error}") from error
    entries = [
        entry
        for entry in listed
        if entry["type"] == "file"
        and any(fnmatch.fnmatch(_name(entry), pattern) for pattern in patterns)
    ]
    if not entries:
        raise ValueError(f"{address}: wanted a checkpoint folder, got none of its files")
    folder = _cache() / _digest(address, entries)
    if not folder.is_dir():
        _copy(fs, entries, folder)
    return folder


def _name(entry: dict[str, Any]) -> str:
    return str(entry["name"]).rstrip("/").rsplit("/", 1)[-1]


def _cache() -> Path:
    return Path(os.environ.get("WEFT_CACHE", "~/.cache/weft")).expanduser() / "checkpoints"


def _digest(address: str, entries: list[dict[str, Any]]) -> str:
    """Of names, sizes, and whatever the storage says of versions."""
    versions = (
        "size",
        "ETag",
        "etag",
        "mtime",
        "LastModified",
        "last_modified",
        "updated",
        "created",
    )
    seen = [[_name(entry), *(str(entry.get(key)) for key in versions)] for entry in entries]
    return hashlib.sha256(json.dumps([address, seen]).encode()).hexdigest()[:24]


def _copy(fs: Any, entries: list[dict[str, Any]], folder: Path) -> None:
    """All of the files or none; another process that does the same at once does no harm."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".fetching-"))
    try:
        for entry in entries:
            fs.get_file(entry["name"], str(unfinished / _name(entry)))
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else the other one was first
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
