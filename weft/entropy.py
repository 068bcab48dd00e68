"""Reference entropies: how uncertain a denoiser is about each token of a response."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from weft.head import Head, require_chunk_size
from weft.method_config import Estimator
from weft.models.base import Denoiser

_RowScore = Callable[[Tensor, Tensor], Tensor]
"""Logits [N, V] and true tokens [N] -> scores [N]."""


def entropy_of_logits(logits: Tensor) -> Tensor:
    """Entropy ``-sum_v p log p`` (nats, over the full vocabulary): [..., V] -> [...] float32.

    At least 0; a logit of minus infinity counts as probability 0. Logits that are not numbers give
    an entropy that is none either, rather than one of certainty.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    probs = log_probs.exp()
    # 0 * log 0 is 0 here; computed as it stands it would be 0 * -inf = NaN.
    terms = torch.where(probs == 0, 0.0, probs * log_probs)
    return -terms.sum(dim=-1).clamp(max=0.0)


def entropy_bounds(
    log_probs: Tensor, smallest: Tensor, num_known: Tensor, vocab_size: int
) -> tuple[Tensor, Tensor]:
    """Least and greatest entropy (nats) of distributions of which a part is known: [N] each.

    ``log_probs`` [N, K] are those of ``num_known`` [N] different tokens, minus infinity behind
    them; each of the ``vocab_size - num_known`` others has at most the probability
    ``exp(smallest)`` [N]. The mass that is missing adds most where it is spread evenly, and least
    where as many tokens as possible have that largest probability, one what is left of it, and the
    others none. float64.
    """
    probs = log_probs.double().exp()
    terms = torch.where(probs > 0, -probs * log_probs.double(), 0.0)
    known = terms.sum(dim=-1)
    missing = (1.0 - probs.sum(dim=-1)).clamp(min=0.0)
    num_others = (vocab_size - num_known).double()
    # No more than the others can hold: what is beyond is rounding of the known ones.
    largest = smallest.double().exp()
    missing = torch.minimum(missing, num_others * largest)
    count = torch.where(largest > 0, torch.floor(missing / largest), 0.0)
    rest = (missing - count * largest).clamp(min=0.0)
    low = known + count * _plogp(largest) + _plogp(rest)
    even = torch.where(num_others > 0, missing / num_others.clamp(min=1.0), 0.0)
    return low, torch.maximum(low, known + num_others * _plogp(even))


def _plogp(probability: Tensor) -> Tensor:
    """``-p log p``, 0 for 0."""
    is_positive = probability > 0
    safe = torch.where(is_positive, probability, 1.0)
    return torch.where(is_positive, -safe * safe.log(), 0.0)


@torch.no_grad()
def reference_entropies(
    denoiser: Denoiser,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_maskable: Tensor,
    *,
    estimator: Estimator = "full_mask",
    num_levels: int = 4,
    generators: Sequence[torch.Generator] = (),
    chunk_size: int = 4096,
    packed: bool = False,
) -> Tensor:
    """Uncertainty of every maskable token given its canvas -> [B, L] float32, nats, else 0.

    ``input_ids`` [B, L] clean tokens, ``is_maskable`` [B, L] response, its EOS and the tail,
    ``attention_mask`` [B, L] or None. The prompt is always visible.

    - ``full_mask``: entropy with all maskable tokens masked, one pass. Source: WeFT.
    - ``nll``: surprisal of the true token in the same pass (the paper's ablation).
    - ``expected``: mean entropy of a token over those of ``num_levels`` passes in which it is
      masked. Pass 1 masks everything, so that each token is measured; pass k > 1 draws a level
      uniform in its own of ``num_levels`` strata of (0, 1), below the top one, and masks each token
      with that probability. With many levels this tends to ``E[H_i | token i masked]`` for
      ``t ~ U(0, 1)``; one level is ``full_mask``. Its draws come from ``generators``, one CPU
      generator for each example (``weft.noise.example_generator`` with stream ``reference``), so
      they do not depend on the rest of the batch.

    ``packed`` takes the padding out before the network runs; see ``Denoiser.hidden_at``. The
    denoiser is run in evaluation mode and left as it was. Raises ValueError for an unknown
    estimator, ``num_levels < 1``, or a number of generators other than B under ``expected``.
    """
    _check(estimator, num_levels, generators, len(input_ids))
    score = _surprisal_score if estimator == "nll" else _entropy_score
    with evaluation_mode(denoiser):
        total = is_maskable.new_zeros(is_maskable.shape, dtype=torch.float32)
        count = torch.zeros_like(total)
        for is_masked in _mask_patterns(is_maskable, estimator, num_levels, generators):
            total += _scores(
                denoiser, input_ids, attention_mask, is_masked, score, chunk_size, packed
            )
            count += is_masked
    # The first pass masks every maskable token, so only others have a count of 0.
    return torch.where(is_maskable, total / count.clamp(min=1.0), 0.0)


@torch.no_grad()
def surprisals(
    denoiser: Denoiser,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_masked: Tensor,
    *,
    chunk_size: int = 4096,
    packed: bool = False,
) -> Tensor:
    """``-log p(true token)`` of the masked tokens given the others -> [B, L] float32, nats, else 0.

    The denoiser is run in evaluation mode and left as it was. Arguments as in
    ``reference_entropies``.
    """
    with evaluation_mode(denoiser):
        return _scores(
            denoiser, input_ids, attention_mask, is_masked, _surprisal_score, chunk_size, packed
        )


def _mask_patterns(
    is_maskable: Tensor,
    estimator: Estimator,
    num_levels: int,
    generators: Sequence[torch.Generator],
) -> Iterator[Tensor]:
    """The masks [B, L] of the passes, the full one first."""
    yield is_maskable
    if estimator != "expected" or num_levels == 1:
        return
    hits = torch.zeros((num_levels - 1, *is_maskable.shape), dtype=torch.bool)
    for row, generator in enumerate(generators):
        places = is_maskable[row].nonzero().squeeze(1).cpu()
        hits[:, row, places] = _draw_masks(len(places), num_levels, generator)
    yield from hits.to(is_maskable.device)


def _draw_masks(num_tokens: int, num_levels: int, generator: torch.Generator) -> Tensor:
    """[num_levels - 1, num_tokens] bool; a token's draws do not depend on how many follow it."""
    num_passes = num_levels - 1
    offsets = torch.rand(num_passes, generator=generator)
    levels = (torch.arange(num_passes) + offsets) / num_levels
    uniforms = torch.rand(num_tokens, num_passes, generator=generator)
    return (uniforms < levels).T


def _scores(
    denoiser: Denoiser,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    is_masked: Tensor,
    score: _RowScore,
    chunk_size: int,
    packed: bool,
) -> Tensor:
    """Scores [B, L] of the masked tokens, 0 elsewhere."""
    noisy_ids = torch.where(is_masked, denoiser.mask_token_id, input_ids)
    hidden = denoiser.hidden_at(noisy_ids, attention_mask, is_masked, packed=packed)
    scores = torch.zeros(input_ids.shape, dtype=torch.float32, device=input_ids.device)
    scores[is_masked] = _score_rows(hidden, input_ids[is_masked], denoiser.head, score, chunk_size)
    return scores


@torch.no_grad()
def _score_rows(
    hidden: Tensor, targets: Tensor, head: Head, score: _RowScore, chunk_size: int
) -> Tensor:
    require_chunk_size(chunk_size)
    chunks = zip(torch.split(hidden, chunk_size), torch.split(targets, chunk_size), strict=True)
    return torch.cat([score(head.logits(rows), wanted) for rows, wanted in chunks])


def _entropy_score(logits: Tensor, _targets: Tensor) -> Tensor:
    return entropy_of_logits(logits)


def _surprisal_score(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="none")


@contextmanager
def evaluation_mode(denoiser: Denoiser) -> Iterator[None]:
    """Dropout is off within the block; every submodule gets its own former mode back."""
    training = [module for module in denoiser.modules() if module.training]
    denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(
    estimator: str, num_levels: int, generators: Sequence[torch.Generator], num_examples: int
) -> None:
    where = "reference_entropies"
    if estimator not in ("full_mask", "expected", "nll"):
        raise ValueError(
            f"{where}: wanted estimator full_mask, expected or nll, got {estimator!r}; choose one"
        )
    if num_levels < 1:
        raise ValueError(f"{where}: wanted num_levels >= 1, got {num_levels}; 4 is the default")
    if estimator == "expected" and len(generators) != num_examples:
        raise ValueError(
            f"{where}: the estimator expected wanted one generator per example ({num_examples}), "
            f"got {len(generators)}; make them with weft.noise.example_generator"
        )
