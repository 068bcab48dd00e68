"""What the rest of the project knows of a denoiser, and of the checkpoint that it comes from."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from weft.head import Head
from weft.models.kv_cache import PartOfRows, WholeRows


class Denoiser(nn.Module, ABC):
    """A bidirectional network that predicts every token of a partly masked sequence at once.

    Row i of what it returns predicts token i, also for families whose own logits are shifted.
    """

    architecture: "Architecture"

    @property
    def mask_token_id(self) -> int:
        """What a masked token is replaced with."""
        return self.architecture.mask_token_id

    @property
    def eos_token_id(self) -> int:
        """What closes a response and fills the canvas behind it."""
        return self.architecture.eos_token_id

    @property
    def vocab_size(self) -> int:
        """Width V of the logits; at least the tokenizer's vocabulary."""
        return self.architecture.vocab_size

    @property
    def max_length(self) -> int:
        """Longest sequence, in tokens."""
        return self.architecture.max_length

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Final hidden states: [B, L] int64 -> [B, L, D].

        ``attention_mask`` [B, L] bool is False on padding, which nobody attends to; None means no
        padding. Positions count from the start of the row.
        """

    def hidden_at(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        is_wanted: Tensor,
        *,
        packed: bool = False,
    ) -> Tensor:
        """Hidden states [N, D] where ``is_wanted`` [B, L], in row-major order.

        ``packed``: padding is taken out beforehand and costs nothing; the rows then stand one
        behind another, and each attends to itself alone. Without padding that changes nothing.
        Raises ValueError where the family cannot do it.
        """
        if packed:
            raise ValueError(
                f"{type(self).__name__}: packing wants blocks whose attention can be limited to "
                f"a document; turn it off"
            )
        return self.hidden_states(input_ids, attention_mask)[is_wanted]

    def states_of_whole(
        self, input_ids: Tensor, attention_mask: Tensor | None, part: WholeRows
    ) -> Tensor:
        """What ``hidden_states`` gives, with keys and values stored for ``states_of_part``.

        Raises ValueError where the family cannot do it.
        """
        raise ValueError(
            f"{type(self).__name__}: a cache wants blocks whose keys and values can be kept; "
            f"decode without one"
        )

    def states_of_part(self, input_ids: Tensor, part: PartOfRows) -> Tensor:
        """Hidden states [B, C, D] of the tokens ``input_ids`` [B, C] at ``part.columns`` alone.

        Not shifted: under ``architecture.logit_shift`` row i predicts the token behind it.
        """
        raise ValueError(f"{type(self).__name__}: has no cache, see states_of_whole")

    @property
    @abstractmethod
    def head(self) -> Head:
        """The output layer."""

    @abstractmethod
    def layers(self) -> list[nn.Module]:
        """The blocks, in order: the parts that weights are spread over ranks and compiled by."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""

    def compile_layers(self) -> None:
        """Compile each block with torch.compile when it first runs, for sequences of any length."""
        for layer in self.layers():
            layer.compile(dynamic=True)

    @abstractmethod
    def checkpoint_state(self, state: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The weights, or ``state`` in place of them, under the names of the family's checkpoints.

        Tied weights are there once, and an adapter's are left out.
        """

    @abstractmethod
    def official_module(self, name: str) -> str:
        """Name of a layer of ours, such as ``blocks.0.mlp.up_proj``, in those checkpoints."""

    def cast(self, dtype: torch.dtype) -> None:
        """Weights in ``dtype``; what is computed from the configuration keeps its own."""
        for parameter in self.parameters():
            parameter.data = parameter.data.to(dtype)

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Draw all weights: normal with standard deviation 0.02, less where ``initial_scale`` says
        so, norms at 1, biases at 0."""
        for name, parameter in self.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.02 * self.initial_scale(name), generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def initial_scale(self, _name: str) -> float:
        """Factor on the initial standard deviation of a matrix."""
        return 1.0

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return self.head.logits(hidden)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, L, V] of a whole batch; training and decoding project only rows they need."""
        return self.project(self.hidden_states(input_ids, attention_mask))


@dataclass(frozen=True, kw_only=True)
class Architecture(ABC):
    """One denoiser's sizes and conventions, read from its ``config.json``."""

    vocab_size: int
    """Width V of embeddings and logits."""
    max_length: int
    """Longest sequence, in tokens."""
    mask_token_id: int
    eos_token_id: int
    logit_shift: bool
    """Whether the checkpoint's own row i - 1 predicts token i."""
    width: int
    """Of the hidden states, D."""
    mlp_width: int
    num_layers: int
    lora_targets: tuple[str, ...]
    """Names of the projections that LoRA adapts by default: query, key and value."""
    values: dict[str, Any]
    """The keys of ``config.json``, as they are saved again."""
    can_pack: ClassVar[bool] = False
    """Whether attention can be limited to a document; see ``Denoiser.hidden_at``."""
    can_cache: ClassVar[bool] = False
    """Whether keys and values can be kept; see ``Denoiser.states_of_whole``."""

    @abstractmethod
    def build(self) -> Denoiser:
        """The network, its weights without meaning."""

    @abstractmethod
    def load(self, folder: Path, *, dtype: torch.dtype, device: str) -> Denoiser:
        """The network with the weights in ``folder``.

        Raises ValueError listing every key that is missing, left over or of another shape.
        """


def without_adapter(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` as it would be if no adapter had been put in; see ``weft.models.lora``."""
    return {k.replace(".base_layer.", "."): v for k, v in state.items() if ".lora_" not in k}


TokenId = Callable[[str], int | None]
"""``mask_token_id`` or ``eos_token_id`` -> the tokenizer's, None where it names none."""


def misfit(values: dict[str, Any], where: str, reason: object) -> ValueError:
    """The error for a ``config.json`` whose ``values`` do not describe a network of its family."""
    text = " ".join(str(reason).split())
    return ValueError(f"{where}: not a {values['model_type']} configuration: {text}")


def checked_ids(
    values: dict[str, Any], where: str, vocab_size: int, **ids: list[Any]
) -> dict[str, int]:
    """The first whole number among the candidates of each of ``ids``.

    Raises ValueError naming every one that is missing or not below ``vocab_size``.
    """
    found: dict[str, int] = {}
    wrong: list[str] = []
    for name, candidates in ids.items():
        number = next((c for c in candidates if isinstance(c, int)), None)
        if number is None:
            wrong.append(f"{name}: missing, and the tokenizer beside it names none")
        elif not 0 <= number < vocab_size:
            wrong.append(f"{name}: wanted an id below vocab_size ({vocab_size}), got {number}")
        else:
            found[name] = number
    if wrong:
        raise misfit(values, where, "; ".join(wrong))
    return found
