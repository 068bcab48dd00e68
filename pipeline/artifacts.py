"""Artifacts: folders of data files made whole by a ``manifest.json`` that is written last.

A folder without a manifest does not exist for any reader. The manifest says what was computed
(stage, configuration, fingerprints of the inputs) and what came out (rows, rejected rows by reason,
size and checksum of each file), so that a stage can refuse an input that does not fit, and tell
whether its own output is already there.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline import storage
from pipeline.errors import ArtifactError
from pipeline.provenance import provenance

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
RECIPE = "recipe.json"
"""Written before anything else of an artifact: which configuration it is being made for."""
ADAPTER_CONFIG = "adapter_config.json"
"""In a checkpoint that is a LoRA adapter."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Size and checksum of one file of an artifact."""

    sha256: str
    num_bytes: int
    num_rows: int = 0


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything that is known of an artifact without reading its data."""

    stage: str
    config: dict[str, Any]
    """What the stage computes, resolved; resources are left out."""
    inputs: dict[str, str]
    """Fingerprint of each input: artifacts, tokenizer, chat template, weights, source files."""
    files: dict[str, FileEntry] = field(default_factory=dict)
    num_rows: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Refused rows by reason."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts and measurements that identify nothing, such as seconds."""
    schema_version: int = SCHEMA_VERSION

    @property
    def recipe(self) -> str:
        """Fingerprint of what was asked for: stage, configuration and inputs."""
        return fingerprint([self.schema_version, self.stage, self.config, self.inputs])

    @property
    def shards(self) -> list[str]:
        """Names of the Parquet files with its rows, in their order."""
        return [n for n in sorted(self.files) if n.endswith(".parquet") and "/" not in n]

    @property
    def content(self) -> str:
        """Fingerprint of what came out: the recipe and the bytes of every file."""
        checksums = {name: entry.sha256 for name, entry in self.files.items()}
        return fingerprint([self.recipe, checksums])


def fingerprint(value: Any) -> str:
    """First 16 hexadecimal digits of the SHA-256 of ``value`` as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_entry(path: str, *, num_rows: int = 0) -> FileEntry:
    """The entry of a file that was just written."""
    return FileEntry(
        sha256=storage.sha256(path), num_bytes=storage.num_bytes(path), num_rows=num_rows
    )


def commit(folder: str, manifest: Manifest) -> None:
    """Make the files in ``folder`` an artifact, by writing its manifest with its provenance."""
    values = dataclasses.asdict(manifest)
    values["facts"] = provenance() | values["facts"]
    storage.write_json(storage.join(folder, MANIFEST), values)


def read_manifest(folder: str) -> Manifest | None:
    """The manifest of ``folder``; None when there is none. ArtifactError when it is damaged."""
    path = storage.join(folder, MANIFEST)
    if not storage.exists(path):
        return None
    values = storage.read_json(path)
    found = values.get("schema_version") if isinstance(values, dict) else None
    if found != SCHEMA_VERSION:
        raise ArtifactError(
            f"{path}: wanted schema version {SCHEMA_VERSION}, got {found!r}; "
            f"repeat the stage with --overwrite"
        )
    try:
        files = {name: FileEntry(**entry) for name, entry in values.pop("files").items()}
        _require_inside(path, files)
        return Manifest(files=files, **values)
    except (TypeError, KeyError, AttributeError) as error:
        raise ArtifactError(
            f"{path}: damaged ({error}); repeat the stage with --overwrite"
        ) from error


def _require_inside(path: str, names: Iterable[str]) -> None:
    """A manifest may come from elsewhere: what it lists lies in its own folder."""
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ArtifactError(
                f"{path}: lists {name!r}, which is outside of its folder; this artifact cannot be "
                f"trusted"
            )


def require(folder: str, stage: str, *, hint: str) -> Manifest:
    """The manifest of an input that must be there and of ``stage``; its files are not read here.

    ``hint`` is what to do when it is missing, such as "run jobs/prepare.py".
    """
    manifest = read_manifest(folder)
    if manifest is None:
        state = "is incomplete (no manifest)" if storage.list_files(folder) else "is missing"
        raise ArtifactError(f"{folder}: the {stage} artifact {state}; {hint}")
    if manifest.stage != stage:
        raise ArtifactError(
            f"{folder}: wanted an artifact of stage {stage}, got {manifest.stage}; {hint}"
        )
    return manifest


def verify_files(folder: str, manifest: Manifest) -> None:
    """Raise ArtifactError naming the first file whose bytes are not those that were committed."""
    for name, entry in manifest.files.items():
        path = storage.join(folder, name)
        if not storage.exists(path):
            raise ArtifactError(f"{path}: missing; repeat stage {manifest.stage} with --overwrite")
        if storage.sha256(path) != entry.sha256:
            raise ArtifactError(
                f"{path}: truncated or changed since it was written; "
                f"repeat stage {manifest.stage} with --overwrite"
            )


def is_done(folder: str, wanted: Manifest, *, overwrite: bool) -> bool:
    """Whether ``folder`` already holds what ``wanted`` asks for.

    Never with ``overwrite``, whatever is there: it is the stage's to ``clear``, once nothing stands
    in the way of making it again. Without, an output of another configuration or of other inputs is
    an ArtifactError that lists what differs, and remains of an interrupted run stay for the stage
    to continue from.
    """
    if overwrite:
        return False
    found = read_manifest(folder)
    if found is None:
        return False
    if found.recipe == wanted.recipe:
        verify_files(folder, found)
        return True
    raise ArtifactError(
        f"{folder}: holds the output of another configuration ({difference(found, wanted)}); "
        f"use --overwrite to replace it, or give this run another name or output_dir"
    )


def are_there(outputs: Sequence[tuple[str, Manifest]]) -> bool:
    """Whether each folder has the manifest of its recipe; the files are not read."""
    found = [read_manifest(folder) for folder, _ in outputs]
    return all(
        one is not None and one.recipe == wanted.recipe
        for one, (_, wanted) in zip(found, outputs, strict=True)
    )


def require_replaceable(folder: str) -> None:
    """Raise ArtifactError where ``folder`` has content of its own, which no stage wrote."""
    found = storage.list_files(folder)
    if found and not {MANIFEST, RECIPE} & {*found}:
        raise ArtifactError(
            f"{folder}: wanted an artifact or nothing, got {', '.join(found[:3])}, which no stage "
            f"wrote; move it away, choose another run.output_dir, or delete it with --overwrite"
        )


def start_or_continue(folder: str, recipe: str, *, overwrite: bool) -> bool:
    """Whether ``folder`` has remains of an interrupted run of the same recipe, to continue from.

    Anything else that a stage wrote there is removed; ``recipe.json`` then says what the folder is
    for. Raises ArtifactError where the folder has content of its own and not ``overwrite``.
    """
    if overwrite:
        clear(folder)
    path = storage.join(folder, RECIPE)
    if storage.exists(path) and storage.read_json(path) == recipe:
        return True
    require_replaceable(folder)
    clear(folder)
    storage.write_json(path, recipe)
    return False


def weights_identity(checksums: Mapping[str, str], base: str) -> str:
    """Fingerprint of a checkpoint's configuration and weight files, by SHA-256 of each file.

    An adapter is nothing without the weights that it adapts: ``base`` is their fingerprint.
    """
    weights = {name: digest for name, digest in checksums.items() if name.endswith(".safetensors")}
    if ADAPTER_CONFIG in checksums:
        return fingerprint([checksums[ADAPTER_CONFIG], weights, base])
    return fingerprint([checksums["config.json"], weights])


def clear(folder: str) -> None:
    """Remove an artifact, its manifest first: no reader takes what is left for whole."""
    storage.remove(storage.join(folder, MANIFEST))
    storage.remove(folder)


def difference(found: Manifest, wanted: Manifest) -> str:
    """In which settings and inputs the two differ, in words; the first five."""
    there = _flat({"config": found.config, "inputs": found.inputs})
    here = _flat({"config": wanted.config, "inputs": wanted.inputs})
    keys = [k for k in sorted({*there, *here}) if there.get(k) != here.get(k)]
    shown = [f"{k}: there {there.get(k)!r}, here {here.get(k)!r}" for k in keys[:5]]
    more = [f"and {len(keys) - 5} more"] if len(keys) > 5 else []
    return "; ".join(shown + more)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values; the places of a list of tables are keys as well."""
    if isinstance(value, dict):
        parts = [_flat(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items()]
    elif isinstance(value, list | tuple) and any(isinstance(v, dict) for v in value):
        parts = [_flat(v, f"{prefix}[{k}]") for k, v in enumerate(value)]
    else:
        return {prefix: list(value) if isinstance(value, tuple) else value}
    return {k: v for part in parts for k, v in part.items()}
