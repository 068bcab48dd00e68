"""Predictions for open positions, how sure they are, and which of them are committed."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from weft.decode_settings import DecodeSettings
from weft.head import rows_within
from weft.models.base import Denoiser

CHUNK_MIB = 64
"""Logits held at once, in MiB of float32: a block of a batch may have gigabytes of them. In
float64, with their softmax, they take four times as much."""


def predict(
    denoiser: Denoiser,
    hidden: Tensor,
    blind: Tensor | None,
    is_open: Tensor,
    settings: DecodeSettings,
    generators: Sequence[torch.Generator | None],
) -> tuple[Tensor, Tensor]:
    """``(tokens, confidence)`` of the open positions, both [B, C]; elsewhere 0 and -infinity.

    ``hidden`` [B, C, D], of the canvas, and ``blind``, of the canvas with its prompt masked;
    ``is_open`` [B, C] bool. A row draws for its own open positions only, from its own generator:
    what other rows have open does not matter.
    """
    tokens = torch.zeros(is_open.shape, dtype=torch.int64, device=hidden.device)
    confidence = torch.full(is_open.shape, -torch.inf, dtype=torch.float64, device=hidden.device)
    places = is_open.nonzero()
    drawn_from = [generators[row] for row in places[:, 0].tolist()] if settings.draws else []
    if settings.remasking == "random":
        # Before the tokens of any position: where a chunk ends depends on the other rows.
        confidence[is_open] = _uniforms((), drawn_from, hidden.device)
    found_tokens, found_confidence = [], []
    for part in _chunks(len(places), denoiser.vocab_size):
        row, column = places[part].unbind(1)
        logits = denoiser.project(hidden[row, column])
        if blind is not None:
            unguided = denoiser.project(blind[row, column])
            logits = unguided + (settings.cfg_scale + 1) * (logits - unguided)
        predicted = _predict(logits, denoiser, settings, drawn_from[part])
        found_tokens.append(predicted)
        if settings.remasking == "low_confidence":
            found_confidence.append(_confidence(logits, predicted, denoiser, settings))
    if found_tokens:
        tokens[is_open] = torch.cat(found_tokens)
    if found_confidence:
        confidence[is_open] = torch.cat(found_confidence)
    return tokens, confidence


def _chunks(count: int, vocab_size: int) -> Iterator[slice]:
    size = rows_within(CHUNK_MIB, vocab_size)
    return (slice(start, start + size) for start in range(0, count, size))


def _predict(
    logits: Tensor,
    denoiser: Denoiser,
    settings: DecodeSettings,
    generators: Sequence[torch.Generator | None],
) -> Tensor:
    """Of [N, V] logits, which are changed, the predicted tokens [N]."""
    if settings.logits_eos_inf:
        logits[:, denoiser.eos_token_id] = -torch.inf
    if settings.threshold > 0:  # a block ends when nothing is open, which a mask would be
        logits[:, denoiser.mask_token_id] = -torch.inf
    noisy = logits
    if settings.temperature > 0:
        uniforms = _uniforms(logits.shape[1:], generators, logits.device)
        # Gumbel-max as LLaDA writes it, in logarithms: exp(l) / (-log u) ** T has the same argmax.
        noisy = logits.double() - settings.temperature * torch.log(-torch.log(uniforms))
    return noisy.argmax(dim=-1)


def _confidence(
    logits: Tensor, tokens: Tensor, denoiser: Denoiser, settings: DecodeSettings
) -> Tensor:
    """[N] float64: the probability of each of ``tokens`` [N] by ``logits`` [N, V]."""
    if settings.confidence_eos_eot_inf:
        ends = [settings.eot_token_id] if settings.eot_token_id >= 0 else []
        # Theirs takes EOS out of the noisy logits, which without noise are the logits themselves.
        ends += [denoiser.eos_token_id] if settings.temperature == 0 else []
        logits[:, ends] = -torch.inf
    # In float32 every probability above 1 - 6e-8 is 1, and ties would decide what comes first.
    probabilities = logits.double().softmax(dim=-1)
    return probabilities.gather(-1, tokens[:, None]).squeeze(-1)


def _uniforms(
    shape: Sequence[int], generators: Sequence[torch.Generator | None], device: torch.device
) -> Tensor:
    """Float64 uniforms in (0, 1) of ``shape`` for each generator, drawn one after the other."""
    drawn = [torch.rand(tuple(shape), dtype=torch.float64, generator=g) for g in generators]
    return torch.stack(drawn).clamp_(min=torch.finfo(torch.float64).tiny).to(device)


def choose(confidence: Tensor, is_open: Tensor, counts: Sequence[int], threshold: float) -> Tensor:
    """[B, C] bool: the open positions to commit.

    The surest of each row, as many as ``counts`` says; with a ``threshold`` also all that reach it.
    """
    order = confidence.topk(min(max(counts), confidence.shape[1]), dim=1).indices
    limits = torch.tensor(counts, device=order.device)
    is_among = torch.arange(order.shape[1], device=order.device) < limits[:, None]
    surest = torch.zeros_like(is_open).scatter_(1, order, is_among)
    if threshold > 0:
        surest |= confidence >= threshold
    return surest & is_open
