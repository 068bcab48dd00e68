"""Any masked language model of transformers as a denoiser: ModernBERT and its kin."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from weft.head import Head
from weft.models.base import (
    Architecture,
    Denoiser,
    TokenId,
    checked_ids,
    misfit,
    without_adapter,
)

_PREFIX = "network."
_LORA_TARGETS = ("query", "key", "value", "Wqkv", "q_proj", "k_proj", "v_proj", "q_lin", "k_lin")
_OFFSET_POSITIONS = ("roberta", "camembert", "xmod")
"""Families whose positions begin behind the padding token's id."""


def is_masked_lm(model_type: object) -> bool:
    """Whether transformers has a masked language model of this ``model_type``."""
    return model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


@dataclass(frozen=True, kw_only=True)
class MaskedLmArchitecture(Architecture):
    """An ``Architecture`` that transformers builds, loads and names the weights of."""

    config: Any
    """transformers' configuration."""

    def build(self) -> "MaskedLmDenoiser":
        """See ``Architecture.build``."""
        return MaskedLmDenoiser(self, AutoModelForMaskedLM.from_config(self.config))

    def load(self, folder: Path, *, dtype: torch.dtype, device: str) -> "MaskedLmDenoiser":
        """See ``Architecture.load``."""
        try:
            network, found = AutoModelForMaskedLM.from_pretrained(
                folder,
                config=self.config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
        except RuntimeError as error:  # of another shape
            raise ValueError(f"{folder}: the weights do not fit config.json: {error}") from error
        missing, extra = (sorted(found[key]) for key in ("missing_keys", "unexpected_keys"))
        if missing or extra:
            raise ValueError(
                f"{folder}: the weights do not fit config.json: missing {missing}, left over "
                f"{extra}"
            )
        return MaskedLmDenoiser(self, network.train()).to(device)


class MaskedLmDenoiser(Denoiser):
    """A network of transformers without its last linear layer, which is the head."""

    def __init__(self, architecture: MaskedLmArchitecture, network: Any) -> None:
        """Take over ``network``; ValueError where its last layer is not a linear one."""
        super().__init__()
        self.architecture = architecture
        self.network = network
        self._output: Callable[[], Any] = network.get_output_embeddings
        decoder = self._output()
        if not isinstance(decoder, nn.Linear):
            raise ValueError(
                f"{type(network).__name__}: wanted a linear output layer, got "
                f"{type(decoder).__name__}; this network cannot be used"
            )
        _require_last(network, decoder)
        # The network then returns what goes into its head.
        decoder.forward = _identity  # type: ignore[method-assign, assignment]

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See ``Denoiser.hidden_states``."""
        mask = None if attention_mask is None else attention_mask.long()
        hidden: Tensor = self.network(input_ids=input_ids, attention_mask=mask).logits
        return hidden

    @property
    def head(self) -> Head:
        """See ``Denoiser.head``."""
        decoder = self._output()
        return Head(decoder.weight, decoder.bias)

    def layers(self) -> list[nn.Module]:
        """See ``Denoiser.layers``."""
        lists = [list(m) for m in self.network.modules() if isinstance(m, nn.ModuleList)]
        return max(lists, key=len)

    def enable_gradient_checkpointing(self) -> None:
        """See ``Denoiser.enable_gradient_checkpointing``."""
        self.network.gradient_checkpointing_enable()

    def checkpoint_state(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """See ``Denoiser.checkpoint_state``."""
        state = without_adapter(self.state_dict() if state is None else state)
        tied = {f"{_PREFIX}{name}" for name in self.network.all_tied_weights_keys}
        return {k.removeprefix(_PREFIX): v for k, v in state.items() if k not in tied}

    def official_module(self, name: str) -> str:
        """See ``Denoiser.official_module``."""
        return name.removeprefix(_PREFIX)


def _identity(hidden: Tensor) -> Tensor:
    return hidden


@torch.no_grad()
def _require_last(network: Any, decoder: nn.Linear) -> None:
    """Raise ValueError unless what ``decoder`` puts out are the logits, and nothing follows."""
    if decoder.weight.is_meta:
        return
    outputs: list[Tensor] = []
    hook = decoder.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    logits = network(input_ids=torch.zeros((1, 2), dtype=torch.int64)).logits
    hook.remove()
    if len(outputs) != 1 or not torch.equal(outputs[0], logits):
        raise ValueError(
            f"{type(network).__name__}: something follows its output layer; this network cannot "
            f"be used"
        )


def masked_lm_architecture(
    values: dict[str, Any], where: str, token_id: TokenId
) -> MaskedLmArchitecture:
    """The architecture that ``values`` describe; arguments and errors as in ``architecture_of``."""
    config = _config_of(values, where)
    if config.is_encoder_decoder:
        raise misfit(values, where, "wanted a network without a decoder of its own")
    ids = checked_ids(
        values,
        where,
        config.vocab_size,
        mask_token_id=[token_id("mask_token_id")],
        eos_token_id=[
            values.get("eos_token_id"),
            values.get("sep_token_id"),
            token_id("eos_token_id"),
        ],
    )
    has_offset = any(part in values["model_type"] for part in _OFFSET_POSITIONS)
    return MaskedLmArchitecture(
        config=config,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings - (config.pad_token_id + 1 if has_offset else 0),
        **ids,
        logit_shift=False,
        width=config.hidden_size,
        mlp_width=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        lora_targets=_LORA_TARGETS,
        values=values,
    )


def _config_of(values: dict[str, Any], where: str) -> Any:
    own = {key: value for key, value in values.items() if key != "model_type"}
    try:
        return AutoConfig.for_model(values["model_type"], **own)
    # The library checks types and sizes, each with an exception of its own making.
    except Exception as error:
        raise misfit(values, where, error) from error
