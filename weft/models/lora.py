"""LoRA through peft: adapters in a denoiser, saved under the names of its family's checkpoints.

An adapter of ours loads into the published network with peft, and one that peft made for the
published network loads here. Source: LoRA (arXiv 2106.09685).
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from weft.models.base import Denoiser
from weft.models.weights import require_fit
from weft.suggest import did_you_mean

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"
_PREFIX = "base_model.model."
_PARTS = ("lora_A", "lora_B")


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Sizes of the adapter; the defaults are d1's recipe."""

    rank: int = 128
    alpha: int = 256
    """The product of the two matrices is scaled by ``alpha / rank``."""
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of the adapted layers in the family's checkpoints; empty: query, key
    and value projections."""


def is_adapter(folder: Path) -> bool:
    """Whether ``folder`` holds an adapter rather than a whole checkpoint."""
    return (folder / ADAPTER_CONFIG).is_file()


def add_lora(
    denoiser: Denoiser,
    settings: LoraSettings,
    *,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Put an adapter of ``dtype`` that changes nothing yet into ``denoiser``; freeze all else.

    Its first matrices are drawn from ``generator`` (uniform, as a linear layer's), the second ones
    are 0. Raises ValueError naming target modules that the denoiser does not have.
    """
    _inject(denoiser, _targets(denoiser, settings.target_modules), settings, dtype)
    initialize_lora(denoiser, generator=generator)


@torch.no_grad()
def initialize_lora(denoiser: Denoiser, *, generator: torch.Generator) -> None:
    """Draw the first matrices of the adapter anew, wherever their parts lie; zero the second."""
    for name, parameter in denoiser.named_parameters():
        if f".{_PARTS[0]}." in name:
            bound = 1 / math.sqrt(parameter.shape[1])
            drawn = torch.empty(parameter.shape).uniform_(-bound, bound, generator=generator)
            _assign(parameter, drawn)
        elif f".{_PARTS[1]}." in name:
            parameter.zero_()


def _assign(parameter: Tensor, values: Tensor) -> None:
    if isinstance(parameter, DTensor):
        mesh, placements = parameter.device_mesh, parameter.placements
        values = distribute_tensor(values.to(mesh.device_type), mesh, placements)
    parameter.copy_(values)


def adapter_state(denoiser: Denoiser, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapter's weights, or those in ``state``, under the names that peft gives them."""
    state = denoiser.state_dict() if state is None else state
    return {_official(denoiser, name): t for name, t in state.items() if _is_part(name)}


def save_adapter(
    denoiser: Denoiser,
    folder: str | Path,
    *,
    settings: LoraSettings,
    base: str,
    state: dict[str, Tensor] | None = None,
) -> None:
    """Write an adapter of the checkpoint ``base`` as peft reads it; each file whole or not at all.

    ``state`` stands in for the denoiser's own weights, as in ``save_denoiser``.
    """
    from peft import LoraConfig

    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    weights = {n: t.detach().contiguous().cpu() for n, t in adapter_state(denoiser, state).items()}
    modules = sorted({name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in weights})
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    values: dict[str, Any] = config.to_dict()
    # peft keeps names as a set, which JSON does not know.
    values |= {"target_modules": modules, "peft_type": "LORA"}
    temporary = target / f".{ADAPTER_WEIGHTS}.tmp"
    save_file(weights, temporary, metadata={"format": "pt"})
    os.replace(temporary, target / ADAPTER_WEIGHTS)
    temporary = target / f".{ADAPTER_CONFIG}.tmp"
    temporary.write_text(json.dumps(values, indent=1, sort_keys=True, default=str) + "\n")
    os.replace(temporary, target / ADAPTER_CONFIG)


def adapter_base(folder: Path) -> str:
    """Path or hub name of the checkpoint that the adapter in ``folder`` belongs to.

    Raises ValueError where it names none.
    """
    base = _read_values(folder).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{folder / ADAPTER_CONFIG}: wanted base_model_name_or_path to name a checkpoint, got "
            f"{base!r}; write the path or hub name of the adapter's base there"
        )
    return base


def _read_values(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        values.keys()
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: wanted the configuration of a LoRA, got {error!r}") from error
    return values


def _read_settings(folder: Path) -> LoraSettings:
    """Raises ValueError for what is no LoRA, or one with more than two matrices a layer."""
    path, values = folder / ADAPTER_CONFIG, _read_values(folder)
    try:
        settings = LoraSettings(
            rank=int(values["r"]),
            alpha=int(values["lora_alpha"]),
            dropout=float(values.get("lora_dropout") or 0.0),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: wanted the configuration of a LoRA, got {error!r}") from error
    unknown = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if values.get(key)
    ]
    unknown += ["bias"] if values.get("bias") not in (None, "none") else []
    if unknown:
        raise ValueError(f"{path}: wanted a plain LoRA, got one with {', '.join(unknown)}")
    return settings


def load_adapter(denoiser: Denoiser, folder: Path) -> LoraSettings:
    """Put the adapter in ``folder`` into ``denoiser``; all of its weights are frozen.

    Raises ValueError listing every key that does not belong to the denoiser, and for files that are
    not whole.
    """
    settings = _read_settings(folder)
    path = folder / ADAPTER_WEIGHTS
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    adapted = {name.removeprefix(_PREFIX).rpartition(".lora_")[0] for name in tensors}
    ours = [n for n in _linear_layers(denoiser) if denoiser.official_module(n) in adapted]
    if not ours:
        raise ValueError(f"{path}: left over {sorted(tensors)[:3]}: an adapter of another network")
    _inject(denoiser, ours, settings)
    state = {name: t for name, t in denoiser.state_dict().items() if _is_part(name)}
    own = {_official(denoiser, name): name for name in state}
    require_fit(
        {key: state[name] for key, name in own.items()},
        tensors,
        str(path),
        what="the adapter does not fit the network",
    )
    denoiser.load_state_dict({own[key]: tensor for key, tensor in tensors.items()}, strict=False)
    denoiser.requires_grad_(False)
    return settings


def merge_lora(denoiser: Denoiser) -> None:
    """Add the adapter to the weights that it adapts, and take it out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [(n, m) for n, m in denoiser.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)  # refuses what is not finite
        denoiser.set_submodule(name, layer.get_base_layer())
    denoiser.requires_grad_(True)


def _inject(
    denoiser: Denoiser,
    modules: list[str],
    settings: LoraSettings,
    dtype: torch.dtype = torch.float32,
) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=modules,
    )
    denoiser.requires_grad_(False)
    inject_adapter_in_model(config, denoiser, adapter_name=_NAME)
    for name, parameter in denoiser.named_parameters():
        if _is_part(name):  # whatever the precision of what is adapted
            parameter.data = parameter.data.to(dtype)


def _targets(denoiser: Denoiser, wanted: tuple[str, ...]) -> list[str]:
    """Names of the linear layers to adapt, of the blocks alone."""
    layers = {name: _last(denoiser.official_module(name)) for name in _linear_layers(denoiser)}
    default = set(denoiser.architecture.lora_targets) & set(layers.values())
    unknown = sorted(set(wanted) - set(layers.values()))
    if unknown:
        known = sorted(set(layers.values()))
        raise ValueError(
            f"target_modules: wanted some of {', '.join(known)}, got {', '.join(unknown)}"
            f"{did_you_mean(unknown[0], known)}"
        )
    chosen = set(wanted) or default
    if not chosen:
        raise ValueError(f"target_modules: name some of {', '.join(sorted(set(layers.values())))}")
    return [name for name, last in layers.items() if last in chosen]


def _linear_layers(denoiser: Denoiser) -> list[str]:
    return [
        name
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and any(part.isdigit() for part in name.split("."))
    ]


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_part(name: str) -> bool:
    return any(f".{part}.{_NAME}." in name for part in _PARTS)


def _official(denoiser: Denoiser, name: str) -> str:
    """``blocks.0.self_attn.q_proj.lora_A.default.weight`` -> what peft calls it."""
    module, _, part = name.partition(".lora_")
    return f"{_PREFIX}{denoiser.official_module(module)}.lora_{part.replace(f'.{_NAME}.', '.')}"
