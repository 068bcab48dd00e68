"""Files in local or remote folders (any fsspec address), each written whole or not at all.

What fails on a remote one is tried again for some seconds, unless trying again cannot help.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pipeline.errors import ArtifactError, PipelineError

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_TEMPORARY = ".tmp"
_ATTEMPTS = 5
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)

_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "adlfs", "azure", "requests")
"""Packages whose exceptions are those of a storage."""
_FORBIDDEN = re.compile("credential|forbidden|denied|unauthorized|expired|signature", re.IGNORECASE)

_Result = TypeVar("_Result")


def in_job() -> bool:
    """Whether this process is a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def resolve(path: str) -> str:
    """``path`` made absolute, so that it means the same in every worker.

    A job submitted to a cluster runs in an unpacked copy of its folder that is deleted later;
    there a relative path is taken from ``$WEFT_HOME``, by default ``~/weft``.
    """
    if "://" in path:
        return path.rstrip("/")
    local = Path(path).expanduser()
    if local.is_absolute():
        return str(local)
    if in_job():
        return str(Path(os.environ.get("WEFT_HOME", "~/weft")).expanduser() / local)
    return str(local.absolute())


def join(*parts: str) -> str:
    """The parts joined by slashes, as both local paths and object stores read them."""
    return "/".join([parts[0].rstrip("/"), *(part.strip("/") for part in parts[1:])])


def is_local(path: str) -> bool:
    """Whether ``path`` lies on a file system that this machine mounts."""
    return "://" not in path or path.startswith("file://")


def _open_fs(path: str) -> tuple[Any, str]:
    import fsspec  # not at the top: --help must answer at once

    try:
        fs, inner = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise ArtifactError(f"{path}: no file system for this address: {error}") from error
    fs.invalidate_cache()  # a listing that is remembered would lack what workers wrote since
    return fs, inner


@contextlib.contextmanager
def _reporting(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be {what}: {error.strerror or error}") from error


def retried(path: str, attempt: Callable[[], _Result]) -> _Result:
    """What ``attempt`` returns; called again after an error that may pass, if ``path`` is remote.

    Raises the last one, an OSError whatever the client of the storage has for it. What does not
    exist or is forbidden stays so, and is raised at once.
    """
    import tenacity

    if is_local(path):
        return attempt()

    def may_pass(error: BaseException) -> bool:
        return isinstance(error, OSError) and not isinstance(error, _LASTING)

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(may_pass),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=tenacity.wait_exponential_jitter(_FIRST_WAIT_S, _LONGEST_WAIT_S),
        before_sleep=lambda state: logger.warning(
            "tried again path=%s after=%s", path, state.outcome and state.outcome.exception()
        ),
        reraise=True,
    )
    return attempts(lambda: _with_os_errors(attempt))


def _with_os_errors(attempt: Callable[[], _Result]) -> _Result:
    """Clients let exceptions of their own through, such as botocore's of missing credentials."""
    try:
        return attempt()
    except (OSError, EOFError, PipelineError):
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        if type(error).__module__.partition(".")[0] not in _CLIENTS:
            raise
        kind = PermissionError if _FORBIDDEN.search(what) else OSError
        raise kind(what) from error


def exists(path: str) -> bool:
    """Whether a file or folder is at ``path``."""
    fs, inner = _open_fs(path)
    with _reporting(path, "read"):
        return retried(path, lambda: bool(fs.exists(inner)))


def list_files(folder: str) -> list[str]:
    """Names of the entries directly in ``folder``, sorted; empty when there is no such folder.

    Without what an interrupted ``write_bytes`` left.
    """
    fs, inner = _open_fs(folder)
    with _reporting(folder, "read"):
        found = retried(folder, lambda: fs.ls(inner, detail=False) if fs.exists(inner) else [])
    # Ray marks folders of an object store by an empty object, which is listed as well.
    entries = [entry.rstrip("/") for entry in found if entry.rstrip("/") != inner.rstrip("/")]
    names = sorted(entry.rsplit("/", 1)[-1] for entry in entries)
    return [name for name in names if not name.endswith(_TEMPORARY)]


def find_files(path: str) -> list[str]:
    """Addresses of all files that ``path`` stands for, sorted: a file, a folder's, a pattern's.

    ``*``, ``?``, ``[...]`` and ``**`` make a pattern. Names with a dot or an underscore in front
    are left out of folders. Empty when there are none.
    """
    fs, inner = _open_fs(path)

    def find() -> list[str]:
        if any(character in inner for character in "*?["):
            return [found for found in fs.glob(inner) if fs.isfile(found)]
        if fs.isdir(inner):
            return [f for f in fs.find(inner) if not f.rsplit("/", 1)[-1].startswith((".", "_"))]
        return [inner] if fs.exists(inner) else []

    with _reporting(path, "read"):
        found = sorted(retried(path, find))
    return found if "://" not in path else [fs.unstrip_protocol(name) for name in found]


def remove(path: str) -> None:
    """Delete the file or folder at ``path``, if there is one."""
    fs, inner = _open_fs(path)
    with _reporting(path, "removed"):
        if retried(path, lambda: fs.exists(inner)):
            retried(path, lambda: fs.rm(inner, recursive=True))


def read_bytes(path: str) -> bytes:
    """The content of the file at ``path``; ArtifactError when it cannot be read."""
    fs, inner = _open_fs(path)
    try:
        return retried(path, lambda: bytes(fs.cat_file(inner)))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read: {error}") from error


def open_binary(path: str) -> Any:
    """The file at ``path`` opened for reading bytes, for streaming; a context manager."""
    fs, inner = _open_fs(path)
    return fs.open(inner, "rb")


def open_unpacked(path: str) -> Any:
    """As ``open_binary``, of what is inside of a file whose name ends with .gz, .bz2 or .xz."""
    fs, inner = _open_fs(path)
    return fs.open(inner, "rb", compression="infer")


def write_bytes(path: str, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees all of it or nothing.

    Locally through a temporary name and a rename; an object store's put is atomic by itself.
    """
    fs, inner = _open_fs(path)
    if not is_local(path):
        with _reporting(path, "written"):
            retried(path, lambda: fs.pipe_file(inner, content))
        return
    with _appearing_whole(path, inner) as file:
        file.write(content)


def copy_in(source: str, path: str) -> None:
    """Copy the local file ``source`` to ``path``, whole or not at all, without holding it."""
    fs, inner = _open_fs(path)
    if not is_local(path):
        with _reporting(path, "written"):
            retried(path, lambda: fs.put_file(source, inner))
        return
    with Path(source).open("rb") as content, _appearing_whole(path, inner) as file:
        shutil.copyfileobj(content, file, _CHUNK_BYTES)


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """A file to write to piece by piece, that is at ``path`` once the block has ended well.

    For a remote path it grows in this machine's temporary folder first.
    """
    _, inner = _open_fs(path)
    if is_local(path):
        with _appearing_whole(path, inner) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(suffix=_TEMPORARY) as file:
        yield file  # type: ignore[misc]
        file.flush()
        copy_in(file.name, path)


@contextlib.contextmanager
def _appearing_whole(path: str, inner: str) -> Iterator[BinaryIO]:
    temporary = Path(f"{inner}.{uuid.uuid4().hex[:8]}{_TEMPORARY}")
    try:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(inner)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        raise ArtifactError(f"{path}: cannot be written: {error.strerror}") from error


def write_json(path: str, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys, whole or not at all."""
    write_bytes(path, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")


def read_json(path: str) -> Any:
    """The JSON value at ``path``; ArtifactError when it is missing or not JSON."""
    try:
        return json.loads(read_bytes(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: not valid JSON: {error}") from error


def write_table(path: str, table: "pa.Table") -> None:
    """Write ``table`` as Parquet, whole or not at all; equal tables give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())


def read_table(path: str) -> "pa.Table":
    """The Parquet table at ``path``; ArtifactError when it is missing, truncated or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # Without pyarrow's thread pools, which now and then abort a process at its exit.
        source = pa.BufferReader(read_bytes(path))
        return pq.ParquetFile(source, pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path}: not a whole Parquet file ({error}); repeat its stage with --overwrite"
        ) from error


def read_if_whole(path: str, schema: "pa.Schema") -> "pa.Table | None":
    """The table at ``path`` if an interrupted run left it whole and of ``schema``; else None."""
    if not exists(path):
        return None
    try:
        table = read_table(path)
    except ArtifactError as error:
        logger.warning("made again: %s", error)
        return None
    return table if table.schema.equals(schema) else None


def num_bytes(path: str) -> int:
    """Size of the file at ``path``; ArtifactError when it cannot be read."""
    fs, inner = _open_fs(path)
    with _reporting(path, "read"):
        return retried(path, lambda: int(fs.size(inner)))


def sha256(path: str) -> str:
    """Hexadecimal SHA-256 of the file at ``path``; ArtifactError when it cannot be read."""

    def digest_of_all() -> str:
        digest = hashlib.sha256()
        with open_binary(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()

    with _reporting(path, "read"):
        return retried(path, digest_of_all)
