"""A bidirectional stack of transformers' decoder blocks: what LLaDA, Dream and A2D are built from.

Blocks of Llama, Qwen2 or Qwen3 (RMSNorm, rotary positions, SwiGLU) with attention in both
directions. Families differ in the block, in the names of a checkpoint's weights, in its
configuration, and in whether their logits are shifted.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from weft.head import Head, working_dtype
from weft.models.base import Architecture, Denoiser, without_adapter
from weft.models.documents import Documents, document_attention
from weft.models.kv_cache import CachedPass, PartOfRows, WholeRows
from weft.models.weights import Header, read_tensor, read_weights, require_fit

ATTENTION = "weft_sdpa"
"""Name under which transformers' blocks find our attention."""
LORA_TARGETS = ("q_proj", "k_proj", "v_proj")
"""What LoRA adapts in d1's recipe."""


@dataclass(frozen=True, kw_only=True)
class BlockArchitecture(Architecture):
    """An ``Architecture`` of such blocks."""

    blocks: Any
    """transformers' configuration of the blocks."""
    block_class: Callable[[Any, int], nn.Module]
    norm_class: Callable[..., nn.Module]
    rotary_class: Callable[[Any], nn.Module]
    is_tied: bool
    """Embeddings and output layer are one matrix, stored once."""
    official_name: Callable[[str], str]
    """Name of a weight of ours (``blocks.0.mlp.up_proj.weight``) in the family's checkpoints."""
    can_pack: ClassVar[bool] = True
    can_cache: ClassVar[bool] = True

    def build(self) -> "BlockDenoiser":
        """See ``Architecture.build``."""
        return BlockDenoiser(self)

    def load(self, folder: Path, *, dtype: torch.dtype, device: str) -> "BlockDenoiser":
        """See ``Architecture.load``; weights are read once, straight to ``device``."""
        with torch.device("meta"):
            denoiser = self.build()
        denoiser.take_over(read_weights(folder, device=device, dtype=dtype), str(folder))
        return denoiser.to(device)


class BlockDenoiser(Denoiser):
    """See the module; ``architecture`` says which family it is."""

    def __init__(self, architecture: BlockArchitecture) -> None:
        """Blocks without meaningful weights; load them, or call ``initialize``."""
        super().__init__()
        self.architecture: BlockArchitecture = architecture
        config = architecture.blocks
        self.wte = nn.Embedding(architecture.vocab_size, architecture.width)
        self.blocks = nn.ModuleList(
            architecture.block_class(config, n) for n in range(architecture.num_layers)
        )
        for block in self.blocks:
            attention: Any = block.self_attn
            attention.is_causal = False
        self.ln_f = architecture.norm_class(architecture.width, eps=config.rms_norm_eps)
        self.rotary = architecture.rotary_class(config)
        self.ff_out = nn.Linear(architecture.width, architecture.vocab_size, bias=False)
        self._recomputes = False
        self.tie()

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """See ``Denoiser.hidden_states``; ``documents`` say what the only row is made of."""
        positions = documents.positions if documents else _places(input_ids)
        hidden = self._run(input_ids, positions, _seen(attention_mask), documents=documents)
        return _shifted(hidden, documents) if self.architecture.logit_shift else hidden

    def states_of_whole(
        self, input_ids: Tensor, attention_mask: Tensor | None, part: WholeRows
    ) -> Tensor:
        """See ``Denoiser.states_of_whole``."""
        hidden = self._run(input_ids, _places(input_ids), _seen(attention_mask), cached=part)
        return _shifted(hidden, None) if self.architecture.logit_shift else hidden

    def states_of_part(self, input_ids: Tensor, part: PartOfRows) -> Tensor:
        """See ``Denoiser.states_of_part``."""
        return self._run(input_ids, part.columns, part.is_seen(), cached=part)

    def _run(
        self,
        input_ids: Tensor,
        positions: Tensor,
        is_seen: Tensor | None,
        documents: Documents | None = None,
        cached: CachedPass | None = None,
    ) -> Tensor:
        """The blocks over tokens at ``positions``, which attend to what ``is_seen``."""
        hidden = self.wte(input_ids)
        bias = None if is_seen is None else _bias(is_seen, hidden)
        # The rotation is computed in float32 and handed on in the dtype of the blocks.
        rotation = self.rotary(hidden, positions)
        for block in self.blocks:
            arguments = (block, hidden, bias, rotation, documents, cached)
            if self._recomputes and self.training:
                hidden = checkpoint(_run_block, *arguments, use_reentrant=False)
            else:
                hidden = _run_block(*arguments)
        normed: Tensor = self.ln_f(hidden)
        return normed

    def hidden_at(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        is_wanted: Tensor,
        *,
        packed: bool = False,
    ) -> Tensor:
        """See ``Denoiser.hidden_at``."""
        if not packed or attention_mask is None:
            return super().hidden_at(input_ids, attention_mask, is_wanted)
        documents = Documents.of(attention_mask)
        hidden = self.hidden_states(input_ids[attention_mask][None], None, documents)
        return hidden[0, is_wanted[attention_mask]]

    @property
    def head(self) -> Head:
        """See ``Denoiser.head``."""
        return Head(self.ff_out.weight)

    def layers(self) -> list[nn.Module]:
        """See ``Denoiser.layers``."""
        return list(self.blocks)

    def enable_gradient_checkpointing(self) -> None:
        """See ``Denoiser.enable_gradient_checkpointing``."""
        self._recomputes = True

    def use_plain_attention(self) -> None:
        """Attention as a GPU does it, in the blocks' own dtype; for counting memory without one."""
        self.architecture.blocks._attn_implementation = "sdpa"

    def initial_scale(self, name: str) -> float:
        """Smaller by the square root of twice the depth where a block writes back."""
        is_output = name.endswith(("o_proj.weight", "down_proj.weight"))
        return (2 * len(self.blocks)) ** -0.5 if is_output else 1.0

    def checkpoint_state(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """See ``Denoiser.checkpoint_state``."""
        state = without_adapter(self.state_dict() if state is None else state)
        tied = {"ff_out.weight"} if self.architecture.is_tied else set()
        rename = self.architecture.official_name
        return {rename(name): tensor for name, tensor in state.items() if name not in tied}

    def official_module(self, name: str) -> str:
        """See ``Denoiser.official_module``."""
        return self.architecture.official_name(f"{name}.weight").removesuffix(".weight")

    def take_over(self, tensors: dict[str, Tensor], where: str) -> None:
        """Use ``tensors`` (names as in ``checkpoint_state``) as weights, without copying them.

        A tied output layer may be there as well, if it is the same as the embedding. What is no
        part of a checkpoint is computed. Raises ValueError listing every key that is missing, left
        over or of another shape.
        """
        rename = self.architecture.official_name
        if self.architecture.is_tied:
            tensors = _without_twin(tensors, rename("ff_out.weight"), rename("wte.weight"))
        require_fit(self.checkpoint_state(), tensors, where)
        names = {rename(name): name for name in self.state_dict()}
        own = {names[key]: tensor for key, tensor in tensors.items()}
        self.load_state_dict(own, strict=False, assign=True)
        self.tie()
        self.compute_buffers()

    def require_fit(self, headers: dict[str, Header], folder: Path) -> None:
        """Raise ValueError as ``take_over`` would for the weights in ``folder``."""
        twin, original = (self.architecture.official_name(f"{n}.weight") for n in ("ff_out", "wte"))
        if self.architecture.is_tied and {twin, original} <= headers.keys():
            pair = [read_tensor(folder, name) for name in (twin, original)]
            if torch.equal(*pair):
                headers = {name: h for name, h in headers.items() if name != twin}
        require_fit(self.checkpoint_state(), headers, str(folder))

    def compute_buffers(self, device: torch.device | str = "cpu") -> None:
        """Rotary frequencies are no part of a checkpoint: built on meta, they are made here."""
        self.rotary = self.architecture.rotary_class(self.architecture.blocks).to(device)

    def tie(self) -> None:
        """Make output layer and embeddings one matrix where the architecture says so."""
        if self.architecture.is_tied:
            self.ff_out.weight = self.wte.weight


def _run_block(
    block: nn.Module,
    hidden: Tensor,
    bias: Tensor | None,
    rotation: tuple[Tensor, Tensor],
    documents: Documents | None,
    cached: CachedPass | None,
) -> Tensor:
    output: Tensor = block(
        hidden,
        attention_mask=bias,
        position_embeddings=rotation,
        documents=documents,
        cached=cached,
    )
    return output


def _places(input_ids: Tensor) -> Tensor:
    """[1, L] int64: 0 to L - 1."""
    return torch.arange(input_ids.shape[1], device=input_ids.device)[None]


def _shifted(hidden: Tensor, documents: Documents | None) -> Tensor:
    """Row i holds what the network says of token i: its own row i - 1, and the first its own."""
    shifted = torch.cat([hidden[:, :1], hidden[:, :-1]], dim=1)
    if documents is None:
        return shifted
    return torch.where((documents.positions == 0)[..., None], hidden, shifted)


def _without_twin(tensors: dict[str, Tensor], twin: str, original: str) -> dict[str, Tensor]:
    if twin in tensors and original in tensors and torch.equal(tensors[twin], tensors[original]):
        return {name: tensor for name, tensor in tensors.items() if name != twin}
    return tensors


def _seen(attention_mask: Tensor | None) -> Tensor | None:
    """[B, 1, L, L] bool; a row of padding sees itself, so that its softmax is never empty."""
    if attention_mask is None:
        return None
    length, device = attention_mask.shape[1], attention_mask.device
    itself = torch.eye(length, dtype=torch.bool, device=device)
    return attention_mask[:, None, None, :] | itself[None, None]


def _bias(is_seen: Tensor, hidden: Tensor) -> Tensor:
    """For SDPA: 0 where ``is_seen``, else minus infinity, in the dtype of the attention.

    Of a bool mask every block would make such a bias of its own, and keep it for the backward pass.
    """
    dtype = torch.float32 if hidden.device.type == "cpu" else working_dtype(hidden)
    zeros = torch.zeros(is_seen.shape, dtype=dtype, device=hidden.device)
    return zeros.masked_fill(~is_seen, -math.inf)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    documents: Documents | None = None,
    cached: CachedPass | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' SDPA, or attention within documents or with a cache; in float32 on a CPU.

    There the backward pass of the fused kernel takes four times as long in bfloat16.
    """
    dtype, is_cpu = value.dtype, query.device.type == "cpu"
    if cached is not None:
        key, value = cached.extend(module.layer_idx, key, value)  # type: ignore[arg-type]
    if is_cpu:
        query, key, value = query.float(), key.float(), value.float()
    with torch.autocast("cpu", enabled=False) if is_cpu else contextlib.nullcontext():
        if documents is not None:
            output = document_attention(query, key, value, documents, scale=kwargs.get("scaling"))
        else:
            output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return output.to(dtype), None


AttentionInterface.register(ATTENTION, _attention)
