"""LLaDA on Llama's blocks, under LLaDA's own names and configuration keys.

Source: LLaDA (arXiv 2502.09992) and the configuration keys of its published checkpoints.
"""

import re

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from weft.models.blocks import ATTENTION, LORA_TARGETS, BlockArchitecture
from weft.models.llada_config import LladaConfig

_OFFICIAL_BLOCK_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def llada_architecture(config: LladaConfig) -> BlockArchitecture:
    """What ``config`` describes; token i is predicted by row i."""
    return BlockArchitecture(
        blocks=_llama_config(config),
        block_class=LlamaDecoderLayer,
        norm_class=LlamaRMSNorm,
        rotary_class=LlamaRotaryEmbedding,
        vocab_size=config.embedding_size,
        max_length=config.max_sequence_length,
        mask_token_id=config.mask_token_id,
        eos_token_id=config.eos_token_id,
        logit_shift=False,
        width=config.d_model,
        mlp_width=config.mlp_hidden_size,
        num_layers=config.n_layers,
        lora_targets=LORA_TARGETS,
        is_tied=config.weight_tying,
        official_name=_official_name,
        values=config.to_json(),
    )


def _llama_config(config: LladaConfig) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=config.d_model,
        intermediate_size=config.mlp_hidden_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_kv_heads,
        max_position_embeddings=config.max_sequence_length,
        rms_norm_eps=float(config.rms_norm_eps),  # JSON writes 1.0 as 1 too
        rope_parameters={"rope_type": "default", "rope_theta": float(config.rope_theta)},
        vocab_size=config.embedding_size,
        attention_bias=False,
        mlp_bias=False,
        attn_implementation=ATTENTION,
    )


def _official_name(name: str) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
    if match is None:
        return f"model.transformer.{name}"
    number, inner, kind = match.groups()
    return f"model.transformer.blocks.{number}.{_OFFICIAL_BLOCK_NAMES[inner]}.{kind}"
