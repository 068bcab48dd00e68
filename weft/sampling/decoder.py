"""Decoding: a canvas of masks, filled block by block, the surest predictions first.

Rows of a batch stand at their own steps and blocks, and a row that is done makes room for the next
request. No row's tokens depend on the others. Sources: LLaDA (arXiv 2502.09992), whose published
``generate.py`` this equals token for token; Fast-dLLM (arXiv 2505.22618) for cache and threshold.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.decode_settings import DecodeSettings
from weft.models.base import Denoiser
from weft.models.kv_cache import PartOfRows, WholeRows
from weft.sampling.canvas import Batch, Decoded, Request, Row
from weft.sampling.predict import choose, predict


@dataclass(frozen=True)
class Generation:
    """What was decoded for B prompts."""

    tokens: Tensor
    """[B, gen_length] int64."""
    unmask_step: Tensor
    """[B, gen_length] int64; see ``Decoded``."""
    nfe: Tensor
    """[B] int64: forward passes; guidance counts twice."""


def generate(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    generators: Sequence[torch.Generator] = (),
) -> Generation:
    """Decode all ``prompts`` in one batch; ``generators``: one a prompt where something is drawn.

    Errors as of ``decode``.
    """
    if settings.draws and len(generators) != len(prompts):
        raise ValueError(
            f"generate: temperature and random remasking want one generator a prompt "
            f"({len(prompts)}), got {len(generators)}"
        )
    drawn_from = generators if settings.draws else [None] * len(prompts)
    requests = [Request(p, g) for p, g in zip(prompts, drawn_from, strict=True)]
    found = decode(denoiser, requests, settings, batch_size=max(1, len(prompts)))
    rows = sorted(found, key=lambda row: row.index)
    return Generation(
        torch.stack([row.tokens for row in rows]),
        torch.stack([row.unmask_step for row in rows]),
        torch.tensor([row.nfe for row in rows]),
    )


def decode(
    denoiser: Denoiser,
    requests: Sequence[Request],
    settings: DecodeSettings,
    *,
    batch_size: int,
) -> Iterator[Decoded]:
    """Each request as it is done, at most ``batch_size`` at a time.

    Raises ValueError where there is nothing to decode, for a prompt over the model's context,
    missing generators, or a cache that the denoiser does not have.
    """
    _check(denoiser, requests, settings, batch_size)
    width = max(len(request.prompt) for request in requests) + settings.gen_length
    queue = deque(enumerate(requests))
    batch = Batch(denoiser, settings, capacity=min(batch_size, len(queue)), width=width)
    while True:
        while queue and batch.has_room:
            batch.admit(*queue.popleft())
        # A caller's own work between two rows must not run in inference mode.
        with torch.inference_mode():
            if not queue:
                batch.shrink()
            if not batch.rows:
                return
            _step(batch)
            done = batch.take_done()
        yield from done


def _step(batch: Batch) -> None:
    """One forward pass for each row; a refresh of the cache and a step within it are two."""
    active = [slot for slot, row in enumerate(batch.rows) if not row.is_done]
    whole = [s for s in active if batch.cache is None or batch.rows[s].step_in_block == 0]
    part = [s for s in active if s not in set(whole)]
    for slots in (whole, part):
        if not slots:
            continue
        started = time.monotonic()
        _fill(batch, slots, is_whole=slots is whole)
        share = (time.monotonic() - started) / len(slots)
        for slot in slots:
            batch.rows[slot].seconds += share


def _fill(batch: Batch, slots: list[int], *, is_whole: bool) -> None:
    """Predict the open positions of the windows of ``slots``, commit some, and move on."""
    rows = [batch.rows[slot] for slot in slots]
    index = torch.tensor(slots, device=batch.device)
    window = _Window.of(rows, batch.settings, batch.device)
    visible = batch.ids(index, window.width).gather(1, window.columns)
    is_open = window.is_inside & (visible == batch.denoiser.mask_token_id)
    if is_whole:
        hidden, blind = _whole_states(batch, rows, index, window)
    else:
        hidden, blind = _part_states(batch, rows, index, window), None
    generators = [row.generator for row in rows]
    tokens, confidence = predict(batch.denoiser, hidden, blind, is_open, batch.settings, generators)
    counts = [_num_commits(row, batch.settings) for row in rows]
    chosen = choose(confidence, is_open, counts, batch.settings.threshold)
    batch.commit(index, window.columns, chosen, tokens)
    for row in rows:
        row.nfe += 1 if blind is None else 2
        row.whole_passes += (1 if blind is None else 2) * is_whole
    batch.advance(slots)


def _num_commits(row: Row, settings: DecodeSettings) -> int:
    return 1 if settings.threshold > 0 else settings.shares()[row.step_in_block]


@dataclass(frozen=True)
class _Window:
    """Of each row the columns from its first open position, or its block, to the block's end."""

    columns: Tensor
    """[B, C] int64; 0 where a row has fewer."""
    is_inside: Tensor
    """[B, C] bool."""
    firsts: list[int]
    counts: list[int]
    width: int
    """Tokens of the longest row."""

    @classmethod
    def of(cls, rows: Sequence[Row], settings: DecodeSettings, device: torch.device) -> "_Window":
        """Positions that a prediction of the mask token left open are taken up again."""
        positions = [min(r.first_open, r.block_end - settings.block_length) for r in rows]
        counts = [row.block_end - first for row, first in zip(rows, positions, strict=True)]
        firsts = [row.start + first for row, first in zip(rows, positions, strict=True)]
        columns, is_inside = _columns(firsts, counts, device)
        columns = torch.where(is_inside, columns, 0)
        return cls(columns, is_inside, firsts, counts, max(row.length for row in rows))


def _columns(
    firsts: Sequence[int], counts: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """[B, C] columns from each first on, and whether they are among its count."""
    offsets = torch.arange(max(counts), device=device)
    columns = torch.tensor(firsts, device=device)[:, None] + offsets
    return columns, offsets < torch.tensor(counts, device=device)[:, None]


def _whole_states(
    batch: Batch, rows: Sequence[Row], index: Tensor, window: _Window
) -> tuple[Tensor, Tensor | None]:
    """Hidden states [B, C, D] of the windows in whole rows, and of those with masked prompts."""
    ids = batch.ids(index, window.width)
    lengths = torch.tensor([row.length for row in rows], device=batch.device)
    places = torch.arange(window.width, device=batch.device)
    is_padded = any(row.length < window.width for row in rows)
    mask = places < lengths[:, None] if is_padded else None
    if batch.cache is not None:
        states = batch.denoiser.states_of_whole(ids, mask, WholeRows(batch.cache, index))
        return _at(states, window.columns), None
    hidden = _at(batch.denoiser.hidden_states(ids, mask), window.columns)
    if batch.settings.cfg_scale <= 0:
        return hidden, None
    starts = torch.tensor([row.start for row in rows], device=batch.device)
    blind = torch.where(places < starts[:, None], batch.denoiser.mask_token_id, ids)
    return hidden, _at(batch.denoiser.hidden_states(blind, mask), window.columns)


def _at(states: Tensor, columns: Tensor) -> Tensor:
    return states.gather(1, columns[..., None].expand(-1, -1, states.shape[-1]))


def _part_states(batch: Batch, rows: Sequence[Row], index: Tensor, window: _Window) -> Tensor:
    """Hidden states [B, C, D] of the windows, computed of these columns and what must be anew."""
    assert batch.cache is not None
    shift = int(batch.denoiser.architecture.logit_shift)
    # Where a row predicts the token behind it, the window's first is predicted before it.
    firsts = [max(0, first - shift) for first in window.firsts]
    ends = [first + count for first, count in zip(window.firsts, window.counts, strict=True)]
    if batch.settings.cache == "prefix":
        ends = [row.length for row in rows]
    counts = [end - first for end, first in zip(ends, firsts, strict=True)]
    columns, is_inside = _columns(firsts, counts, batch.device)
    nowhere = batch.cache.length
    part = PartOfRows(
        batch.cache,
        index,
        torch.where(is_inside, columns, nowhere),
        tuple(row.length for row in rows),
    )
    ids = batch.ids(index, nowhere).gather(1, torch.where(is_inside, columns, 0))
    states = batch.denoiser.states_of_part(ids, part)
    own = torch.tensor(firsts, device=batch.device)[:, None]
    places = (window.columns - shift).clamp(min=0) - own
    return _at(states, torch.where(window.is_inside, places, 0))


def _check(
    denoiser: Denoiser, requests: Sequence[Request], settings: DecodeSettings, batch_size: int
) -> None:
    if not requests or batch_size < 1:
        raise ValueError(
            f"decode: wanted at least one prompt and a batch of at least 1, got {len(requests)} "
            f"and {batch_size}"
        )
    longest = max(len(request.prompt) for request in requests) + settings.gen_length
    if longest > denoiser.max_length:
        raise ValueError(
            f"decode: wanted prompt and canvas within the model's {denoiser.max_length} tokens, "
            f"got {longest}; shorten the prompt or gen_length"
        )
    if settings.draws and any(request.generator is None for request in requests):
        raise ValueError(
            "decode: temperature and random remasking want a generator for each request"
        )
    if settings.cache != "none" and not denoiser.architecture.can_cache:
        raise ValueError(
            f"decode: cache: {type(denoiser).__name__} cannot keep keys and values; use none"
        )
