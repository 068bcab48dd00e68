"""Keys and values of a batch of sequences, kept while parts of the sequences are computed anew.

Source: Fast-dLLM (arXiv 2505.22618): attention goes both ways, so that keys and values of tokens
outside the active part are those of an earlier pass: nearly right, and taken anew at each block.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class KvCache:
    """Of each layer keys and values [S, H, length + 1, D]: S slots, H heads.

    The last place of a slot is written to where a row has nothing to write, and never read.
    """

    num_slots: int
    length: int
    keys: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)

    def keep(self, slots: Tensor) -> None:
        """Drop all slots but ``slots`` (int64), which are numbered anew."""
        self.num_slots = len(slots)
        for layers in (self.keys, self.values):
            for number, layer in enumerate(
                layers
            ):  # one by one, so that two never stand side by side
                layers[number] = layer[slots]

    def layer(self, number: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer, made when they are first written; ``like`` [B, H, L, D]."""
        if number == len(self.keys):
            shape = (self.num_slots, like.shape[1], self.length + 1, like.shape[3])
            # Zeros: what is masked out of attention must still be a number.
            self.keys.append(like.new_zeros(shape))
            self.values.append(like.new_zeros(shape))
        return self.keys[number], self.values[number]


@dataclass(frozen=True)
class WholeRows:
    """A pass over whole rows [B, L], whose keys and values are stored on the way."""

    cache: KvCache
    slots: Tensor
    """[B] int64."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``key`` and ``value`` [B, H, L, D], and attend to them alone."""
        keys, values = self.cache.layer(layer, key)
        keys[self.slots, :, : key.shape[2]] = key
        values[self.slots, :, : value.shape[2]] = value
        return key, value


@dataclass(frozen=True)
class PartOfRows:
    """A pass over some columns of each row, which attend to all of it."""

    cache: KvCache
    slots: Tensor
    """[B] int64."""
    columns: Tensor
    """[B, C] int64: places of the computed tokens, ``cache.length`` where a row has fewer."""
    lengths: tuple[int, ...]
    """Tokens of each row."""

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put ``key`` and ``value`` [B, H, C, D] into their places; those of whole rows."""
        keys, values = self.cache.layer(layer, key)
        keys[self.slots[:, None], :, self.columns] = key.transpose(1, 2)
        values[self.slots[:, None], :, self.columns] = value.transpose(1, 2)
        longest = max(self.lengths)
        if len(self.slots) == self.cache.num_slots:  # all, which are always in order
            return keys[:, :, :longest], values[:, :, :longest]
        return keys[self.slots, :, :longest], values[self.slots, :, :longest]

    def is_seen(self) -> Tensor | None:
        """[B, 1, 1, L] bool, False behind the end of a row; None where all are of one length."""
        longest = max(self.lengths)
        if min(self.lengths) == longest:
            return None
        device = self.slots.device
        lengths = torch.tensor(self.lengths, device=device)[:, None, None, None]
        return torch.arange(longest, device=device) < lengths


CachedPass = WholeRows | PartOfRows
