"""The rows that are being decoded: their tokens, and how far each one has come."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weft.decode_settings import DecodeSettings
from weft.models.base import Denoiser
from weft.models.kv_cache import KvCache


@dataclass(frozen=True)
class Request:
    """One canvas to decode behind ``prompt``."""

    prompt: Sequence[int]
    generator: torch.Generator | None = None
    """Source of its random numbers, on the CPU; needed where something is drawn."""


@dataclass(frozen=True)
class Decoded:
    """A finished canvas."""

    index: int
    """Number of the request."""
    tokens: Tensor
    """[gen_length] int64."""
    unmask_step: Tensor
    """[gen_length] int64: the step (from 0) that committed each token; -1 where none did: what is
    still the mask token, and the EOS that an early stop has filled in."""
    nfe: int
    """Forward passes; guidance counts twice."""
    whole_passes: int
    """Those of them over the whole sequence; without a cache, all."""
    seconds: float
    """Its share of the time of the batches that it was in."""
    latency: float
    """Seconds from its admission to a batch to its end."""


@dataclass
class Row:
    """Where one canvas stands."""

    index: int
    start: int
    """Column of the first position of the canvas."""
    length: int
    """Tokens of prompt and canvas."""
    generator: torch.Generator | None
    block_end: int
    """Position of the canvas behind the active block."""
    first_open: int = 0
    """First position of the canvas that is still masked."""
    step: int = 0
    step_in_block: int = 0
    nfe: int = 0
    whole_passes: int = 0
    seconds: float = 0.0
    admitted: float = field(default_factory=time.monotonic)
    is_done: bool = False


class Batch:
    """Up to ``capacity`` rows; those that are done make room for others, or the batch shrinks."""

    def __init__(
        self, denoiser: Denoiser, settings: DecodeSettings, *, capacity: int, width: int
    ) -> None:
        """``width``: tokens of the longest sequence that will ever be in it."""
        self.denoiser, self.settings = denoiser, settings
        self.device = next(denoiser.parameters()).device
        self.rows: list[Row] = []
        self.capacity = capacity
        self._ids = torch.full((capacity, width), denoiser.eos_token_id, device=self.device)
        self._unmask_step = torch.full(
            (capacity, settings.gen_length), -1, dtype=torch.int64, device=self.device
        )
        self.cache = KvCache(capacity, width) if settings.cache != "none" else None

    def admit(self, index: int, request: Request) -> None:
        """Put ``request`` into a free slot, its canvas masked."""
        slot = next((k for k, row in enumerate(self.rows) if row.is_done), len(self.rows))
        start = len(request.prompt)
        length = start + self.settings.gen_length
        row = Row(index, start, length, request.generator, self.settings.block_length)
        self.rows[slot : slot + 1] = [row]
        ids = self._ids[slot]
        ids[:start] = torch.as_tensor(list(request.prompt), dtype=torch.int64)
        ids[start:length] = self.denoiser.mask_token_id
        ids[length:] = self.denoiser.eos_token_id
        self._unmask_step[slot] = -1

    @property
    def has_room(self) -> bool:
        """Whether another request can be admitted."""
        return len(self.rows) < self.capacity or any(row.is_done for row in self.rows)

    def take_done(self) -> list[Decoded]:
        """The rows that are done, whose slots are free for others, or for ``shrink``."""
        return [self._decoded(slot, row) for slot, row in enumerate(self.rows) if row.is_done]

    def shrink(self) -> None:
        """Give up the slots of rows that are done."""
        kept = [slot for slot, row in enumerate(self.rows) if not row.is_done]
        if len(kept) == self.capacity:
            return
        slots = torch.tensor(kept, dtype=torch.int64, device=self.device)
        self.rows = [self.rows[slot] for slot in kept]
        self.capacity = len(kept)
        self._ids, self._unmask_step = self._ids[slots], self._unmask_step[slots]
        if self.cache is not None:
            self.cache.keep(slots)

    def _decoded(self, slot: int, row: Row) -> Decoded:
        return Decoded(
            index=row.index,
            # Copies: the slot goes to another row.
            tokens=self._ids[slot, row.start : row.length].clone().cpu(),
            unmask_step=self._unmask_step[slot].clone().cpu(),
            nfe=row.nfe,
            whole_passes=row.whole_passes,
            seconds=row.seconds,
            latency=time.monotonic() - row.admitted,
        )

    def ids(self, slots: Tensor, width: int) -> Tensor:
        """[B, width] token ids of ``slots``."""
        return self._ids[slots, :width]

    def commit(self, slots: Tensor, columns: Tensor, chosen: Tensor, tokens: Tensor) -> None:
        """Write ``tokens`` [B, C] at ``columns`` [B, C] of ``slots`` [B], where ``chosen``."""
        row, place = chosen.nonzero(as_tuple=True)
        slot, column = slots[row], columns[row, place]
        self._ids[slot, column] = tokens[row, place]
        members = [self.rows[s] for s in slots.tolist()]
        steps = torch.tensor([m.step for m in members], device=self.device)
        starts = torch.tensor([m.start for m in members], device=self.device)
        self._unmask_step[slot, column - starts[row]] = steps[row]

    def advance(self, slots: Sequence[int]) -> None:
        """Move ``slots`` on by one step: to the next block, or to their end."""
        positions = torch.arange(self.settings.gen_length, device=self.device)
        starts = torch.tensor([self.rows[s].start for s in slots], device=self.device)
        index = torch.tensor(slots, device=self.device)
        canvas = self._ids[index[:, None], starts[:, None] + positions]
        is_open = canvas == self.denoiser.mask_token_id
        self._unmask_step[index] = torch.where(is_open, -1, self._unmask_step[index])
        is_eos = canvas == self.denoiser.eos_token_id
        firsts = torch.stack([_first(is_open), _first(is_eos)]).tolist()
        for slot, first_open, first_eos in zip(slots, *firsts, strict=True):
            self._advance(slot, first_open, first_eos)

    def _advance(self, slot: int, first_open: int, first_eos: int) -> None:
        row, settings = self.rows[slot], self.settings
        row.step += 1
        row.step_in_block += 1
        row.first_open = first_open
        if settings.threshold > 0:
            is_full = first_open >= row.block_end
        else:
            is_full = row.step_in_block == settings.steps_per_block
        if is_full:
            row.block_end += settings.block_length
            row.step_in_block = 0
        row.is_done = row.block_end > settings.gen_length
        if settings.early_stop and first_eos < first_open and not row.is_done:
            row.is_done = True
            rest = self._ids[slot, row.start : row.length]
            rest[rest == self.denoiser.mask_token_id] = self.denoiser.eos_token_id


def _first(is_wanted: Tensor) -> Tensor:
    """[B] int64: the first True of each row, the width where there is none."""
    width = is_wanted.shape[1]
    places = torch.arange(width, device=is_wanted.device)
    return torch.where(is_wanted, places, width).amin(dim=1)
