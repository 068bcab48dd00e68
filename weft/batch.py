"""Examples -> batches: prompt, response and tail on one canvas, with their keyed noise.

A row is ``prompt, response (its closing EOS included), tail (further EOS), padding``. Padding is
neither attended to nor trained; the tail is both. Which tail there is says the EOS policy: a model
that only ever saw canvases as long as the response would learn to fill whatever canvas it gets.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from weft.method_config import EosPolicy
from weft.noise import noise_levels, tail_length, token_uniforms, uniform_draws


@dataclass(frozen=True)
class Example:
    """One tokenized training example."""

    example_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    """Not empty; the closing EOS is its last token, unless the response was truncated."""
    entropy: Sequence[float] | None = None
    """Reference entropies, nats, one per response token."""
    tail_entropy: Sequence[float] | None = None
    """Reference entropies of the tail, nats; tail token j has that of ``min(j, last)``."""


@dataclass
class Batch:
    """Examples side by side, padded on the right to the longest: B rows of L tokens."""

    input_ids: Tensor
    """[B, L] int64, clean."""
    attention_mask: Tensor
    """[B, L] bool, False on padding only."""
    is_maskable: Tensor
    """[B, L] bool: response, its EOS and the tail."""
    is_tail: Tensor
    """[B, L] bool: the EOS tokens after the closing one."""
    entropy: Tensor
    """[B, L] float32, nats; 0 where unknown or not maskable."""
    noise_level: Tensor
    """[B, 1] float32 in (0, 1)."""
    uniforms: Tensor
    """[B, L] float32 in [0, 1): token i is masked iff it is below t_i."""
    margin: Tensor
    """[B, 1] float32 in [0, 1): how many more tokens than these are considered (objective lift)."""
    example_ids: list[str]
    has_entropy: bool
    """Every example came with entropies of its response."""
    has_tail_entropy: bool
    """Every row with a tail came with entropies of the tail."""
    is_padded: bool
    """Some row is shorter than L, so the attention mask matters."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on ``device``."""
        tensors = {
            f.name: getattr(self, f.name).to(device)
            for f in dataclasses.fields(self)
            if isinstance(getattr(self, f.name), Tensor)
        }
        return dataclasses.replace(self, **tensors)


def collate(
    examples: Sequence[Example],
    *,
    seed: int,
    epoch: int,
    eps: float,
    eos_policy: EosPolicy,
    tail_max: int,
    max_length: int,
    eos_token_id: int,
    pad_token_id: int | None = None,
) -> Batch:
    """The batch of ``examples`` with the noise of (``seed``, ``epoch``, each example's id).

    The tail follows ``eos_policy``: ``random_tail`` (keyed length in 0..``tail_max``),
    ``pad_to_max`` (up to ``max_length``), ``pad_to_batch`` (up to the longest of this batch) or
    ``one`` (none). It is shortened to fit ``max_length`` tokens; the response never is. A response
    that does not end in EOS was truncated and gets no tail: its text does not end there.
    ``pad_token_id`` defaults to EOS; padding is never attended to.

    Raises ValueError for an empty batch or response, prompt and response over ``max_length``,
    entropies that do not match the response, or an unknown policy.
    """
    tails = tail_lengths(
        examples,
        seed=seed,
        epoch=epoch,
        eos_policy=eos_policy,
        tail_max=tail_max,
        max_length=max_length,
        eos_token_id=eos_token_id,
    )
    batch = lay_out(examples, tails, eos_token_id=eos_token_id, pad_token_id=pad_token_id)
    ids = batch.example_ids
    for row, is_maskable in enumerate(batch.is_maskable):
        uniforms = token_uniforms(seed, epoch, ids[row], int(is_maskable.sum()))
        batch.uniforms[row, is_maskable] = uniforms
    batch.noise_level = noise_levels(seed, epoch, ids, eps=eps).unsqueeze(1)
    batch.margin = uniform_draws(seed, epoch, ids, "margin").float().unsqueeze(1)
    return batch


def reference_batch(
    examples: Sequence[Example],
    *,
    tail: int,
    max_length: int,
    eos_token_id: int,
    pad_token_id: int | None = None,
) -> Batch:
    """The canvas of the reference pass: a tail of ``tail`` EOS behind each response, no noise.

    The tail is shortened to fit ``max_length``, and absent behind a truncated response. Noise
    levels and uniforms are 0. Errors as in ``collate``.
    """
    tails = [min(tail, room) for room in _rooms(examples, max_length=max_length, eos=eos_token_id)]
    return lay_out(examples, tails, eos_token_id=eos_token_id, pad_token_id=pad_token_id)


def split_entropies(entropy: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Per row, the entries of ``entropy`` [B, L] on the response and on the tail, both 1-D."""
    rows = zip(entropy, batch.is_maskable, batch.is_tail, strict=True)
    return [(values[mask & ~tail], values[tail]) for values, mask, tail in rows]


def tail_lengths(
    examples: Sequence[Example],
    *,
    seed: int,
    epoch: int,
    eos_policy: EosPolicy,
    tail_max: int,
    max_length: int,
    eos_token_id: int,
) -> list[int]:
    """Number of tail tokens of each example under ``eos_policy``; see ``collate``."""
    rooms = _rooms(examples, max_length=max_length, eos=eos_token_id)
    if eos_policy == "one":
        return [0] * len(examples)
    if eos_policy == "pad_to_max":
        return rooms
    if eos_policy == "pad_to_batch":
        longest = max(_length(example) for example in examples)
        # A truncated response has no room for a tail, even where the batch is longer.
        return [min(r, longest - _length(e)) for r, e in zip(rooms, examples, strict=True)]
    if eos_policy == "random_tail":
        drawn = [tail_length(seed, epoch, example.example_id, tail_max) for example in examples]
        return [min(pair) for pair in zip(rooms, drawn, strict=True)]
    raise ValueError(
        f"collate: wanted eos_policy random_tail, pad_to_max, pad_to_batch or one, "
        f"got {eos_policy!r}; choose one"
    )


def lay_out(
    examples: Sequence[Example],
    tails: Sequence[int],
    *,
    eos_token_id: int,
    pad_token_id: int | None = None,
) -> Batch:
    """The canvas of ``examples`` with ``tails[b]`` further EOS each; noise is left at 0."""
    if not examples:
        raise ValueError("lay_out: wanted at least one example, got none; drop empty batches")
    lengths = [_length(e) + tail for e, tail in zip(examples, tails, strict=True)]
    shape = (len(examples), max(lengths))
    pad = eos_token_id if pad_token_id is None else pad_token_id
    batch = Batch(
        input_ids=torch.full(shape, pad, dtype=torch.int64),
        attention_mask=torch.zeros(shape, dtype=torch.bool),
        is_maskable=torch.zeros(shape, dtype=torch.bool),
        is_tail=torch.zeros(shape, dtype=torch.bool),
        entropy=torch.zeros(shape, dtype=torch.float32),
        noise_level=torch.zeros((len(examples), 1), dtype=torch.float32),
        uniforms=torch.zeros(shape, dtype=torch.float32),
        margin=torch.zeros((len(examples), 1), dtype=torch.float32),
        example_ids=[example.example_id for example in examples],
        has_entropy=all(example.entropy is not None for example in examples),
        has_tail_entropy=all(
            tail == 0 or len(example.tail_entropy or ()) > 0
            for example, tail in zip(examples, tails, strict=True)
        ),
        is_padded=min(lengths) < max(lengths),
    )
    for row, (example, tail) in enumerate(zip(examples, tails, strict=True)):
        _fill_row(batch, row, example, tail, eos_token_id)
    return batch


def _fill_row(batch: Batch, row: int, example: Example, tail: int, eos_token_id: int) -> None:
    start = len(example.prompt_ids)
    closed = start + len(example.response_ids)
    end = closed + tail
    batch.input_ids[row, :start] = torch.tensor(example.prompt_ids, dtype=torch.int64)
    batch.input_ids[row, start:closed] = torch.tensor(example.response_ids, dtype=torch.int64)
    batch.input_ids[row, closed:end] = eos_token_id
    batch.attention_mask[row, :end] = True
    batch.is_maskable[row, start:end] = True
    batch.is_tail[row, closed:end] = True
    if example.entropy is not None:
        if len(example.entropy) != closed - start:
            raise ValueError(
                f"example {example.example_id}: wanted {closed - start} entropies (one per "
                f"response token), got {len(example.entropy)}; run the reference pass again"
            )
        batch.entropy[row, start:closed] = torch.tensor(example.entropy, dtype=torch.float32)
    if tail > 0 and example.tail_entropy:
        values = torch.tensor(example.tail_entropy, dtype=torch.float32)
        batch.entropy[row, closed:end] = values[torch.arange(tail).clamp(max=len(values) - 1)]


def _length(example: Example) -> int:
    return len(example.prompt_ids) + len(example.response_ids)


def _rooms(examples: Sequence[Example], *, max_length: int, eos: int) -> list[int]:
    """How many tail tokens fit behind each response; 0 behind a truncated one."""
    rooms = []
    for example in examples:
        name, length = f"example {example.example_id}", _length(example)
        if len(example.response_ids) == 0:
            raise ValueError(f"{name}: wanted a response, got no token; reject it in prepare")
        if length > max_length:
            raise ValueError(
                f"{name}: wanted at most max_length = {max_length} tokens of prompt and response, "
                f"got {length}; reject or truncate it in prepare, or raise max_length"
            )
        rooms.append(max_length - length if example.response_ids[-1] == eos else 0)
    return rooms
