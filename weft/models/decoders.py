"""Dream, and Llama, Qwen2 and Qwen3 checkpoints that were adapted to diffusion (A2D).

All are decoders of transformers with attention in both directions, under the decoder's own names.
Source: Dream (arXiv 2508.15487), whose row i - 1 predicts token i, as in the autoregressive network
that it was made from; A2D as in dLLM (arXiv 2602.22661).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama import modeling_llama
from transformers.models.qwen2 import modeling_qwen2
from transformers.models.qwen3 import modeling_qwen3

from weft.models.base import TokenId, checked_ids, misfit
from weft.models.blocks import ATTENTION, LORA_TARGETS, BlockArchitecture

_OFFICIAL_NAMES = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "ff_out.weight": "lm_head.weight",
}
_REQUIRED = (
    *("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"),
    *("num_hidden_layers", "num_attention_heads"),
)
_NOT_OF_THE_BLOCKS = (
    *("model_type", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version"),
    *("mask_token_id", "logit_shift", "right_shift_logits", "_name_or_path"),
)


@dataclass(frozen=True)
class _Blocks:
    config_class: Callable[..., Any]
    block_class: Callable[..., Any]
    norm_class: Callable[..., Any]
    rotary_class: Callable[..., Any]


_LLAMA = _Blocks(
    LlamaConfig,
    modeling_llama.LlamaDecoderLayer,
    modeling_llama.LlamaRMSNorm,
    modeling_llama.LlamaRotaryEmbedding,
)
_QWEN2 = _Blocks(
    Qwen2Config,
    modeling_qwen2.Qwen2DecoderLayer,
    modeling_qwen2.Qwen2RMSNorm,
    modeling_qwen2.Qwen2RotaryEmbedding,
)
_QWEN3 = _Blocks(
    Qwen3Config,
    modeling_qwen3.Qwen3DecoderLayer,
    modeling_qwen3.Qwen3RMSNorm,
    modeling_qwen3.Qwen3RotaryEmbedding,
)
DECODERS = {
    "Dream": _QWEN2,
    "dream": _QWEN2,
    "a2d-llama": _LLAMA,
    "a2d-qwen2": _QWEN2,
    "a2d-qwen3": _QWEN3,
}
"""The blocks of each ``model_type``."""


def decoder_architecture(
    values: dict[str, Any], where: str, token_id: TokenId
) -> BlockArchitecture:
    """The architecture that ``values`` describe; arguments and errors as in ``architecture_of``.

    A2D checkpoints differ in whether their logits are shifted: ``logit_shift`` or
    ``right_shift_logits`` of the values say so, and without either they are not.
    """
    family = DECODERS[values["model_type"]]
    wrong = [f"{key}: missing" for key in _REQUIRED if values.get(key) is None]
    if values.get("use_sliding_window") or "sliding_attention" in (values.get("layer_types") or ()):
        wrong.append("use_sliding_window: wanted false: every token sees every other")
    if wrong:
        raise misfit(values, where, "; ".join(wrong))
    config = _block_config(family, values, where)
    ids = checked_ids(
        values,
        where,
        config.vocab_size,
        mask_token_id=[values.get("mask_token_id"), token_id("mask_token_id")],
        eos_token_id=_eos_candidates(values, token_id),
    )
    return BlockArchitecture(
        blocks=config,
        block_class=family.block_class,
        norm_class=family.norm_class,
        rotary_class=family.rotary_class,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        **ids,
        logit_shift=_is_shifted(values, where),
        width=config.hidden_size,
        mlp_width=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        lora_targets=LORA_TARGETS,
        is_tied=bool(config.tie_word_embeddings),
        official_name=_official_name,
        values=values,
    )


def _block_config(family: _Blocks, values: dict[str, Any], where: str) -> Any:
    own = {key: value for key, value in values.items() if key not in _NOT_OF_THE_BLOCKS}
    try:
        return family.config_class(**own, attn_implementation=ATTENTION)
    # The library checks types and sizes, each with an exception of its own making.
    except Exception as error:
        raise misfit(values, where, error) from error


def _eos_candidates(values: dict[str, Any], token_id: TokenId) -> list[Any]:
    """The configured one; of several, the tokenizer's; without any, that of padding."""
    configured = values.get("eos_token_id")
    several = configured if isinstance(configured, list) else []
    return [configured, token_id("eos_token_id"), *several, values.get("pad_token_id")]


def _is_shifted(values: dict[str, Any], where: str) -> bool:
    if values["model_type"].lower() == "dream":
        return True
    found = values.get("logit_shift", values.get("right_shift_logits", False))
    if not isinstance(found, bool):
        raise ValueError(f"{where}: logit_shift: wanted true or false, got {found!r}")
    return found


def _official_name(name: str) -> str:
    return _OFFICIAL_NAMES.get(name) or f"model.layers.{name.removeprefix('blocks.')}"
