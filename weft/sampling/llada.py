"""LLaDA's decoder: a canvas of masks, filled block by block, the surest predictions first.

Source: LLaDA (arXiv 2502.09992), algorithms 4 and 5, and its published ``generate.py``, whose
greedy outputs this reproduces token for token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from weft.models.base import Denoiser

Remasking = Literal["low_confidence", "random"]


@dataclass(frozen=True)
class Generation:
    """What was decoded for a batch of B prompts."""

    tokens: Tensor
    """[B, gen_length] int64."""
    unmask_step: Tensor
    """[B, gen_length] int64, the step (from 0) at which each token was committed."""
    nfe: int
    """Forward passes of each sequence; guidance counts twice."""


@dataclass(frozen=True)
class _Canvas:
    """Rows of ``prompt, canvas, padding`` and where each canvas begins."""

    ids: Tensor
    attention_mask: Tensor | None
    starts: Tensor

    def columns(self, first: int, count: int) -> Tensor:
        """[B, count] columns of canvas positions ``first`` to ``first + count``."""
        return self.starts[:, None] + torch.arange(first, first + count, device=self.ids.device)


@torch.inference_mode()
def generate(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    *,
    gen_length: int,
    block_length: int,
    steps: int,
    temperature: float = 0.0,
    remasking: Remasking = "low_confidence",
    cfg_scale: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> Generation:
    """Decode every prompt; the same prompt gives the same tokens alone and in any batch.

    Blocks of ``block_length`` are filled from left to right in ``steps / num_blocks`` steps each; a
    step commits an even share of the block's tokens, the first steps one more where the share is
    not whole. ``low_confidence`` commits the predictions of highest probability, ``random`` any.
    A prediction may be the mask token itself; such a position stays open and is taken up again,
    also in later blocks. ``temperature`` above 0 adds Gumbel noise in float64. ``cfg_scale`` above
    0 guides by the logits of the canvas with its prompt masked. ``generators``: one CPU generator
    a prompt, needed wherever something is drawn.

    Raises ValueError for lengths that do not divide, a prompt over the model's context, an empty
    batch, missing generators, an unknown ``remasking``, or a negative temperature or scale.
    """
    draws = temperature > 0 or remasking == "random"
    _check_settings(temperature, remasking, cfg_scale)
    _check(denoiser, prompts, gen_length, block_length, steps, generators if draws else None)
    device = next(denoiser.parameters()).device
    canvas = _canvas(prompts, gen_length, denoiser, device)
    unmask_step = torch.zeros((len(prompts), gen_length), dtype=torch.int64, device=device)
    steps_per_block = steps // (gen_length // block_length)
    step = 0
    for end in range(block_length, gen_length + 1, block_length):
        for num_commits in _shares(block_length, steps_per_block):
            first = _first_open(canvas, end - block_length, denoiser.mask_token_id)
            columns = canvas.columns(first, end - first)
            visible = canvas.ids.gather(1, columns)
            is_open = visible == denoiser.mask_token_id
            logits = _logits(denoiser, canvas, columns, cfg_scale)
            tokens, confidence = _predict(logits, is_open, temperature, remasking, generators)
            commit = _surest(confidence, is_open, num_commits)
            canvas.ids.scatter_(1, columns, torch.where(commit, tokens, visible))
            unmask_step[:, first:end][commit] = step
            step += 1
    nfe = steps * (2 if cfg_scale > 0 else 1)
    tokens = canvas.ids.gather(1, canvas.columns(0, gen_length))
    unmask_step[tokens == denoiser.mask_token_id] = -1
    return Generation(tokens.cpu(), unmask_step.cpu(), nfe)


def _shares(num_tokens: int, num_steps: int) -> list[int]:
    """Tokens to commit at each step: even, the remainder to the first steps, as LLaDA does."""
    share, remainder = divmod(num_tokens, num_steps)
    return [share + (number < remainder) for number in range(num_steps)]


def _canvas(
    prompts: Sequence[Sequence[int]], gen_length: int, denoiser: Denoiser, device: torch.device
) -> _Canvas:
    lengths = [len(prompt) + gen_length for prompt in prompts]
    ids = torch.full((len(prompts), max(lengths)), denoiser.eos_token_id, dtype=torch.int64)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.as_tensor(list(prompt), dtype=torch.int64)
        ids[row, len(prompt) : lengths[row]] = denoiser.mask_token_id
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    starts = torch.tensor([len(prompt) for prompt in prompts])
    is_padded = min(lengths) < max(lengths)
    return _Canvas(ids.to(device), mask.to(device) if is_padded else None, starts.to(device))


def _first_open(canvas: _Canvas, block_start: int, mask_token_id: int) -> int:
    """The first canvas position that some row still has to fill: mostly that of the block."""
    if block_start == 0:
        return 0
    is_open = canvas.ids.gather(1, canvas.columns(0, block_start)) == mask_token_id
    places = is_open.any(dim=0).nonzero()
    return int(places[0]) if len(places) else block_start


def _logits(denoiser: Denoiser, canvas: _Canvas, columns: Tensor, cfg_scale: float) -> Tensor:
    """Logits [B, C, V] at ``columns`` [B, C]; no other row is projected."""
    logits = _logits_at(denoiser, canvas.ids, canvas.attention_mask, columns)
    if cfg_scale <= 0:
        return logits
    places = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
    is_prompt = places[None] < canvas.starts[:, None]
    blind_ids = torch.where(is_prompt, denoiser.mask_token_id, canvas.ids)
    blind = _logits_at(denoiser, blind_ids, canvas.attention_mask, columns)
    return blind + (cfg_scale + 1) * (logits - blind)


def _logits_at(
    denoiser: Denoiser, ids: Tensor, attention_mask: Tensor | None, columns: Tensor
) -> Tensor:
    hidden = denoiser.hidden_states(ids, attention_mask)
    index = columns[..., None].expand(-1, -1, hidden.shape[-1])
    return denoiser.project(hidden.gather(1, index))


def _predict(
    logits: Tensor,
    is_open: Tensor,
    temperature: float,
    remasking: Remasking,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """The predicted token of each position and the confidence in it, both [B, C]."""
    noisy = logits
    if temperature > 0:
        uniforms = _uniforms(logits, is_open, generators)
        # Gumbel-max as LLaDA writes it, in logarithms: exp(l) / (-log u) ** T has the same argmax.
        noisy = logits.double() - temperature * torch.log(-torch.log(uniforms))
    tokens = noisy.argmax(dim=-1)
    if remasking == "random":
        return tokens, _uniforms(logits[..., 0], is_open, generators)
    # In float32 every probability above 1 - 6e-8 is 1, and ties would decide what comes first.
    probabilities = logits.double().softmax(dim=-1)
    return tokens, probabilities.gather(-1, tokens[..., None]).squeeze(-1)


def _uniforms(like: Tensor, is_open: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Uniforms in (0, 1), float64, of the shape of ``like``, 1/2 where nothing is open.

    A row draws for its own open positions only, from its own generator: what other rows of the
    batch still have open does not matter.
    """
    uniforms = torch.full(like.shape, 0.5, dtype=torch.float64)
    for row, (mask, generator) in enumerate(zip(is_open.cpu(), generators, strict=True)):
        shape = (int(mask.sum()), *like.shape[2:])
        uniforms[row, mask] = torch.rand(shape, dtype=torch.float64, generator=generator)
    return uniforms.clamp_(min=torch.finfo(torch.float64).tiny).to(like.device)


def _surest(confidence: Tensor, is_masked: Tensor, count: int) -> Tensor:
    """[B, C] bool: the ``count`` masked positions of highest confidence in each row."""
    ranked = torch.where(is_masked, confidence.double(), -torch.inf)
    chosen = torch.zeros_like(is_masked)
    return chosen.scatter_(1, ranked.topk(count, dim=1).indices, True)


def _check_settings(temperature: float, remasking: str, cfg_scale: float) -> None:
    if remasking not in get_args(Remasking):
        raise ValueError(
            f"generate: remasking: wanted {' or '.join(get_args(Remasking))}, got {remasking!r}"
        )
    for name, value in (("temperature", temperature), ("cfg_scale", cfg_scale)):
        if not 0 <= value < float("inf"):  # nan fails as well
            raise ValueError(f"generate: {name}: wanted a finite number from 0 up, got {value}")


def _check(
    denoiser: Denoiser,
    prompts: Sequence[Sequence[int]],
    gen_length: int,
    block_length: int,
    steps: int,
    generators: Sequence[torch.Generator] | None,
) -> None:
    if not prompts:
        raise ValueError("generate: wanted at least one prompt, got none")
    if block_length < 1 or gen_length < 1 or gen_length % block_length:
        raise ValueError(
            f"generate: wanted gen_length a multiple of block_length, got {gen_length} and "
            f"{block_length}"
        )
    num_blocks = gen_length // block_length
    if steps < num_blocks or steps % num_blocks or steps > gen_length:
        raise ValueError(
            f"generate: wanted steps a multiple of the {num_blocks} blocks and at most "
            f"{gen_length}, got {steps}"
        )
    longest = max(map(len, prompts)) + gen_length
    if longest > denoiser.max_length:
        raise ValueError(
            f"generate: wanted prompt and canvas within the model's {denoiser.max_length} tokens, "
            f"got {longest}; shorten the prompt or gen_length"
        )
    if generators is not None and len(generators) != len(prompts):
        raise ValueError(
            f"generate: temperature and random remasking want one generator a prompt "
            f"({len(prompts)}), got {len(generators)}"
        )
