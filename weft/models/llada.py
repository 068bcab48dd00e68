"""LLaDA's architecture on transformers' Llama blocks, under LLaDA's own names and configuration.

RMSNorm, rotary positions, SwiGLU, no biases, attention in both directions. Source: LLaDA
(arXiv 2502.09992) and the configuration keys of its published checkpoints.
"""

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, LlamaConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import (
    LlamaDecoderLayer,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
)

from weft.head import Head
from weft.models.base import Denoiser
from weft.models.llada_config import LladaConfig

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_PREFIX = "model.transformer."
_ATTENTION = "weft_sdpa"


class LladaDenoiser(Denoiser):
    """LLaDA: token i is predicted by row i."""

    logit_shift = False

    def __init__(self, config: LladaConfig) -> None:
        """Blocks without meaningful weights; load them, or call ``initialize``."""
        super().__init__()
        self.config = config
        self.mask_token_id, self.eos_token_id = config.mask_token_id, config.eos_token_id
        self.vocab_size, self.max_length = config.embedding_size, config.max_sequence_length
        llama = _llama_config(config)
        self.wte = nn.Embedding(config.embedding_size, config.d_model)
        self.blocks = nn.ModuleList(LlamaDecoderLayer(llama, n) for n in range(config.n_layers))
        for block in self.blocks:
            attention: Any = block.self_attn
            attention.is_causal = False
        self.ln_f = LlamaRMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.rotary = LlamaRotaryEmbedding(llama)
        self.ff_out = nn.Linear(config.d_model, config.embedding_size, bias=False)
        if config.weight_tying:
            self.ff_out.weight = self.wte.weight
        self._recomputes = False

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See ``Denoiser.hidden_states``."""
        hidden = self.wte(input_ids)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        # The rotation is computed in float32 and handed on in the dtype of the blocks.
        rotation = self.rotary(hidden, positions)
        bias = _attention_bias(attention_mask)
        for block in self.blocks:
            if self._recomputes and self.training:
                hidden = checkpoint(_run_block, block, hidden, bias, rotation, use_reentrant=False)
            else:
                hidden = _run_block(block, hidden, bias, rotation)
        return self.ln_f(hidden)  # type: ignore[no-any-return]

    @property
    def head(self) -> Head:
        """See ``Denoiser.head``."""
        return Head(self.ff_out.weight)

    def enable_gradient_checkpointing(self) -> None:
        """See ``Denoiser.enable_gradient_checkpointing``."""
        self._recomputes = True

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights: normal with standard deviation 0.02, smaller by the square root of
        twice the depth where a block writes back, norms at 1."""
        depth_scale = (2 * self.config.n_layers) ** -0.5
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                parameter.fill_(1.0)
                continue
            is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
            scale = 0.02 * (depth_scale if is_output else 1.0)
            parameter.normal_(0.0, scale, generator=generator)

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The weights under the names of LLaDA's checkpoints."""
        tied = {"ff_out.weight"} if self.config.weight_tying else set()
        state = self.state_dict()
        return {_official(name): t for name, t in state.items() if name not in tied}

    def load_checkpoint_state(self, tensors: dict[str, Tensor], where: str) -> None:
        """Take over ``tensors`` (names as in ``checkpoint_state``) without copying them.

        Raises ValueError listing every key that is missing, left over or of another shape.
        """
        wanted = self.checkpoint_state()
        missing, extra = (
            sorted(wanted.keys() - tensors.keys()),
            sorted(tensors.keys() - wanted.keys()),
        )
        shapes = [
            f"{key} wanted {list(wanted[key].shape)} got {list(tensors[key].shape)}"
            for key in sorted(wanted.keys() & tensors.keys())
            if wanted[key].shape != tensors[key].shape
        ]
        if missing or extra or shapes:
            raise ValueError(
                f"{where}: the weights do not fit config.json: missing {missing}, left over "
                f"{extra}, of another shape {shapes}"
            )
        own = {_internal(key): tensor for key, tensor in tensors.items()}
        if self.config.weight_tying:
            own["ff_out.weight"] = own["wte.weight"]
        self.load_state_dict(own, assign=True)
        if self.config.weight_tying:
            self.ff_out.weight = self.wte.weight


def _run_block(
    block: nn.Module, hidden: Tensor, bias: Tensor | None, rotation: tuple[Tensor, Tensor]
) -> Tensor:
    output: Tensor = block(hidden, attention_mask=bias, position_embeddings=rotation)
    return output


def _attention_bias(attention_mask: Tensor | None) -> Tensor | None:
    """[B, 1, L, L] bool for SDPA: True where attention goes. A row of padding attends to itself, so
    that its softmax is never empty."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    length = attention_mask.shape[1]
    itself = torch.eye(length, dtype=torch.bool, device=attention_mask.device)
    return attention_mask[:, None, None, :] | itself[None, None]


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
        attn_implementation=_ATTENTION,
    )


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA, in float32 on a CPU.

    There the backward pass of the fused kernel takes four times as long in bfloat16.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(value.dtype), None


AttentionInterface.register(_ATTENTION, _attention)


def _official(name: str) -> str:
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if match is None:
        return f"{_PREFIX}{name}"
    inner = {v: k for k, v in _BLOCK_NAMES.items()}[match[2]]
    return f"{_PREFIX}blocks.{match[1]}.{inner}.weight"


def _internal(name: str) -> str:
    bare = name.removeprefix(_PREFIX)
    match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", bare)
    return bare if match is None else f"blocks.{match[1]}.{_BLOCK_NAMES[match[2]]}.weight"
