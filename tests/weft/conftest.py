"""Toy denoisers whose losses can be worked out independently."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weft.head import Head
from weft.models import Denoiser


class Toy(nn.Module):
    """What the toys share with a real denoiser."""

    hidden_at = Denoiser.hidden_at


class TableDenoiser(Toy):
    """Logits read from ``table`` [2**R, R, V]: one entry per mask pattern of the last R positions.

    Bit i of a pattern is set where token i of the response is masked. The prompt is what is before.
    """

    mask_token_id = 0
    eos_token_id = 1

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        num_tokens = self.table.shape[1]
        response = input_ids[:, -num_tokens:]
        bits = 2 ** torch.arange(num_tokens)
        hidden = self.table[((response == self.mask_token_id) * bits).sum(dim=1)]
        return nn.functional.pad(hidden, (0, 0, input_ids.shape[1] - num_tokens, 0))

    @property
    def head(self) -> Head:
        return Head(torch.eye(self.table.shape[-1]))


class PoolingDenoiser(Toy):
    """A one-layer network that sees every attended token through their mean."""

    mask_token_id = 0
    eos_token_id = 1

    def __init__(self, vocab_size: int, width: int, seed: int, dropout: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.embedding = weight(vocab_size, width)
        self.mixing = weight(width, width)
        self.output = weight(vocab_size, width)
        self.dropout = nn.Dropout(dropout)

    def hidden_states(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        embedded = self.dropout(self.embedding[input_ids])
        seen = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        seen = seen.unsqueeze(-1).float()
        context = (embedded * seen).sum(dim=1, keepdim=True) / seen.sum(dim=1, keepdim=True)
        places = torch.linspace(0, 16, 64)[: input_ids.shape[1]].unsqueeze(-1)
        return torch.tanh((embedded + 3 * context + places) @ self.mixing)

    @property
    def head(self) -> Head:
        return Head(self.output)


@pytest.fixture
def table_denoiser() -> Callable[[Tensor], TableDenoiser]:
    """Make a denoiser from its table of logits."""
    return TableDenoiser


@pytest.fixture
def pooling_denoiser() -> Callable[..., PoolingDenoiser]:
    """Make a small network with random weights."""

    def make(
        *, vocab_size: int = 11, width: int = 8, seed: int = 0, dropout: float = 0.0
    ) -> PoolingDenoiser:
        return PoolingDenoiser(vocab_size, width, seed, dropout)

    return make
