"""What the rest of the project knows of a denoiser."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from weft.head import Head


class Denoiser(nn.Module, ABC):
    """A bidirectional network that predicts every token of a partly masked sequence at once.

    Row i of what it returns predicts token i, also for families whose own logits are shifted.
    """

    mask_token_id: int
    eos_token_id: int
    vocab_size: int
    """Width V of the logits; at least the tokenizer's vocabulary."""
    max_length: int
    """Longest sequence, in tokens."""
    logit_shift: bool
    """Whether the checkpoint's own row i - 1 predicts token i."""

    @abstractmethod
    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Final hidden states: [B, L] int64 -> [B, L, D].

        ``attention_mask`` [B, L] bool is False on padding, which nobody attends to; None means no
        padding. Positions count from the start of the row.
        """

    @property
    @abstractmethod
    def head(self) -> Head:
        """The output layer."""

    @abstractmethod
    def enable_gradient_checkpointing(self) -> None:
        """Recompute each block's activations in the backward pass instead of keeping them."""

    def project(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return self.head.logits(hidden)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Logits [B, L, V] of a whole batch; training and decoding project only rows they need."""
        return self.project(self.hidden_states(input_ids, attention_mask))
