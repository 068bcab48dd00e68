"""Stage merge: a LoRA adapter and the weights that it adapts become one checkpoint.

Sums are taken in float32 and rounded once, to the dtype of the adapted weights.
"""

import dataclasses
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.claim import claimed, require_free
from pipeline.config import RunConfig
from pipeline.errors import ArtifactError, CheckpointError, ConfigError
from pipeline.layout import STATE_FOLDER, layout
from pipeline.models import named_checkpoint, open_denoiser, weights_fingerprint
from pipeline.tokenizers import open_tokenizer_at, tokenizer_fingerprints_at
from weft.models import resolve_checkpoint, save_denoiser
from weft.models.base import Denoiser
from weft.models.lora import adapter_base, is_adapter, merge_lora
from weft.models.weights import stored_dtype

_NUM_PROBES, _PROBE_LENGTH = 2, 32
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest change of a logit that is rounding, as a share of the logits' standard deviation."""


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``checkpoints/<merge.name>`` from the adapter ``merge.checkpoint``."""
    source, folder = _source(config), layout(config).checkpoint(config.merge.folder)
    wanted = _wanted_manifest(source)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"merge: {folder} is already finished; --overwrite repeats it")
        return
    if not overwrite:
        artifacts.require_replaceable(folder)
        _refuse_training(folder)
    dtype = _base_dtype(source)
    denoiser = open_denoiser(source)  # in float32
    expected = _probe(denoiser)
    merge_lora(denoiser)
    denoiser.to(dtype)
    with tempfile.TemporaryDirectory() as local:
        save_denoiser(denoiser, local)
        del denoiser  # another one of its size is read
        change = _require_same(local, expected, dtype)
        open_tokenizer_at(source).save_pretrained(local)
        if overwrite:
            require_free(folder)
            artifacts.clear(folder)
        with claimed(folder):
            facts = {"dtype": str(dtype), "logit_change": change}
            _commit(Path(local), folder, dataclasses.replace(wanted, facts=facts))
    print(f"merge: {source}, in {str(dtype).removeprefix('torch.')} -> {folder}")


def _commit(local: Path, folder: str, manifest: Manifest) -> None:
    """Copy the files in ``local``, then make them an artifact."""
    storage.write_json(storage.join(folder, artifacts.RECIPE), manifest.recipe)
    names = sorted(path.name for path in local.iterdir())
    for name in names:
        storage.copy_in(str(local / name), storage.join(folder, name))
    files = {
        name: artifacts.file_entry(storage.join(folder, name))
        for name in [*names, artifacts.RECIPE]
    }
    artifacts.commit(folder, dataclasses.replace(manifest, files=files))


def _refuse_training(folder: str) -> None:
    """Raise ArtifactError where ``folder`` holds the states of an unfinished training."""
    if storage.exists(storage.join(folder, STATE_FOLDER)):
        raise ArtifactError(
            f"{folder}: holds an unfinished training; choose another merge.name, or --overwrite"
        )


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The merged checkpoint, with what its manifest must say."""
    return [(layout(config).checkpoint(config.merge.folder), _wanted_manifest(_source(config)))]


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    if not config.merge.checkpoint:
        return "merge: nothing yet; --merge.checkpoint names an adapter"
    source = _source(config)
    folder, dtype = layout(config).checkpoint(config.merge.folder), _base_dtype(source)
    return f"merge: {source} in {str(dtype).removeprefix('torch.')} -> {folder}"


def _source(config: RunConfig) -> str:
    wanted = config.merge.checkpoint
    if not wanted:
        raise ConfigError("merge.checkpoint: wanted an adapter, such as a name under checkpoints/")
    path = named_checkpoint(config, wanted, "merge.checkpoint")
    try:
        folder = resolve_checkpoint(path)
    except ValueError as error:
        raise CheckpointError(f"merge.checkpoint {error}") from error
    if not is_adapter(folder):
        raise CheckpointError(f"{path}: wanted a LoRA adapter, got a checkpoint with all weights")
    return path


def _base_dtype(source: str) -> torch.dtype:
    base = adapter_base(resolve_checkpoint(source))
    return stored_dtype(resolve_checkpoint(base))


def _wanted_manifest(source: str) -> Manifest:
    """Of a training's adapter, that training's settings, which results are shown with."""
    inputs = {"weights": weights_fingerprint(source)} | tokenizer_fingerprints_at(source)
    trained = artifacts.read_manifest(source)
    settings = trained.config if trained else {}
    return Manifest(stage="train", config=settings | {"merged": True}, inputs=inputs)


@torch.no_grad()
def _probe(denoiser: Denoiser) -> Tensor:
    """Logits of fixed tokens, half of them masked."""
    generator = torch.Generator().manual_seed(0)
    length = min(_PROBE_LENGTH, denoiser.max_length)
    ids = torch.randint(denoiser.vocab_size, (_NUM_PROBES, length), generator=generator)
    ids[:, 1::2] = denoiser.mask_token_id
    logits: Tensor = denoiser.eval()(ids)
    return logits


def _require_same(folder: str, expected: Tensor, dtype: torch.dtype) -> float:
    """Read what was written: its logits' largest change; CheckpointError if it is no rounding."""
    found = _probe(open_denoiser(folder))
    change = float((found - expected).abs().max() / expected.std())
    if not change <= _TOLERANCE[dtype]:
        raise CheckpointError(
            f"{folder}: wanted the merged weights to give the adapter's logits, got a change of "
            f"{change:.1e} standard deviations; nothing was kept"
        )
    return change
