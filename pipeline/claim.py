"""One writer for a run: a claim in its folder, renewed as long as its process lives."""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import psutil

from pipeline import storage
from pipeline.errors import ArtifactError

logger = logging.getLogger(__name__)

CLAIM = "writer.json"
_RENEW_S, _STALE_S, _SETTLE_S, _LOOK_S = 15.0, 60.0, 1.0, 2.0


@contextlib.contextmanager
def claimed(folder: str) -> Iterator[None]:
    """Hold the claim on ``folder``, and give it back at the end.

    Raises ArtifactError where another process holds it: one that lives on this machine, or one of
    another machine that renews it while it is watched for a minute, so that no clock has to agree
    with another. What a killed process left is taken over. Storage has no lock that all file
    systems and object stores share, so two processes that start within the same second are told
    apart by who wrote last.
    """
    path = storage.join(folder, CLAIM)
    require_free(folder)
    own = _describe()
    storage.write_json(path, own | {"renewed": time.time()})
    time.sleep(_SETTLE_S)  # whoever saw the folder free before has written by now
    _require_own(path, own)
    ended = threading.Event()
    renewal = threading.Thread(target=_renew, args=(path, own, ended), daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        if _read(path).get("token") == own["token"]:
            storage.remove(path)


def _describe() -> dict[str, Any]:
    process = psutil.Process()
    return {
        "token": uuid.uuid4().hex,
        **_place(),
        "pid": process.pid,
        "started": process.create_time(),
    }


def _place() -> dict[str, str]:
    """Where the numbers of processes mean the same: a machine, or a container on it."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return {"host": socket.gethostname(), "namespace": namespace}


def _renew(path: str, own: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(_RENEW_S):
        try:
            _require_own(path, own)
            storage.write_json(path, own | {"renewed": time.time()})
        except ArtifactError as error:  # storage may be away for a while; training goes on
            logger.error("claim not renewed: %s", error)


def _read(path: str) -> dict[str, Any]:
    """What the claim says; nothing where there is none, or none that can be read as one."""
    if not storage.exists(path):
        return {}
    try:
        found = json.loads(storage.read_bytes(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def require_free(folder: str) -> None:
    """Raise ArtifactError where another process writes to ``folder``; see ``claimed``."""
    path = storage.join(folder, CLAIM)
    found = _read(path)
    if found and _lives(path, found):
        raise ArtifactError(
            f"{path}: process {found.get('pid')} on {found.get('host')} writes to this run; wait "
            f"for it, stop it, or give this one another name"
        )


def _lives(path: str, found: dict[str, Any]) -> bool:
    if found.items() >= _place().items():
        return _is_running(found)
    logger.info(
        "claim of process %s on %s: watching it for up to %.0f s",
        *(found.get("pid"), found.get("host"), _STALE_S),
    )
    deadline = time.monotonic() + _STALE_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        now = _read(path)
        if now != found:
            return bool(now)  # renewed, or given back
    return False


def _is_running(found: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(found["pid"]))
        # The number of a process that ended may be another's by now.
        return bool(abs(process.create_time() - float(found["started"])) < 1.0)
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False


def _require_own(path: str, own: dict[str, Any]) -> None:
    found = _read(path)
    if found and found.get("token") != own["token"]:
        raise ArtifactError(
            f"{path}: process {found.get('pid')} on {found.get('host')} claims this run as well as "
            f"this one ({os.getpid()}); only one may write to it"
        )
