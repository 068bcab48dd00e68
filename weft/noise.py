"""Noise as a pure function of (seed, epoch, example id), and optimizer steps stratified by it.

Every draw is keyed by what it is for (its *stream*), so a longer tail or response shifts no other
draw, and neither the world size, nor the other examples of a batch, nor a resumed run matter.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

Stream: TypeAlias = Literal[
    "noise_level", "mask", "margin", "tail", "order", "reference", "held_out"
]

_LARGEST_BELOW_ONE = 1.0 - 2.0**-24
"""Largest float32 below 1: ``t`` never rounds to 1, where ``log(1 - t)`` is infinite."""

NOISE_VERSION = 3
"""Raised when a key's draws change: a run with the former ones is not continued."""
_UNIFORM_BITS = 23


def example_generator(seed: int, epoch: int, example_id: str, stream: Stream) -> torch.Generator:
    """A fresh CPU generator that depends on nothing but the arguments.

    torch's CPU engine keeps only 32 bits of its seed, so two keys share a sequence with
    probability 2**-32; ``noise_levels`` therefore takes its bits from the hash itself.
    """
    generator = torch.Generator(device="cpu")
    # Not `manual_seed` on the global state: this seeds only the new generator.
    generator.manual_seed(_key(seed, epoch, stream, example_id))
    return generator


def uniform_draws(seed: int, epoch: int, example_ids: Sequence[str], stream: Stream) -> Tensor:
    """One uniform of every example, in [0, 1) -> [N] float64; all 53 bits come from the hash."""
    keys = [_key(seed, epoch, stream, name) >> 11 for name in example_ids]
    return torch.tensor(keys, dtype=torch.float64) * 2.0**-53


def noise_levels(seed: int, epoch: int, example_ids: Sequence[str], *, eps: float) -> Tensor:
    """Noise level ``t = eps + (1 - eps) * u`` of every example, ``u`` uniform -> [N] float32.

    In [eps, 1): float32 rounding may reach ``eps`` but never 1. About two seconds per million.
    Raises ValueError unless ``0 < eps < 1`` (a zero level would have an infinite weight ``1/t``).
    """
    if not 0.0 < eps < 1.0:
        raise ValueError(f"noise_levels: wanted eps in (0, 1), got {eps!r}; LLaDA's is 1e-3")
    uniforms = uniform_draws(seed, epoch, example_ids, "noise_level")
    return (eps + (1.0 - eps) * uniforms).float().clamp(max=_LARGEST_BELOW_ONE)


def token_uniforms(seed: int, epoch: int, example_id: str, num_tokens: int) -> Tensor:
    """Uniforms of the maskable tokens, in order -> [num_tokens] float32 in (0, 1).

    The first j do not depend on ``num_tokens``. They are centres of 2**23 equal cells and thus
    exact in float32, at least 2**-24 and below 1: a token masked with probability under 2**-24 is
    never masked, which bounds the weight ``1/t_i`` of a masked token by 2**24.
    """
    generator = example_generator(seed, epoch, example_id, "mask")
    cells = torch.randint(0, 2**_UNIFORM_BITS, (num_tokens,), generator=generator)
    return (cells.double() + 0.5).mul(2.0**-_UNIFORM_BITS).float()


def tail_length(seed: int, epoch: int, example_id: str, tail_max: int) -> int:
    """Number of further EOS tokens under the policy ``random_tail``: uniform on 0..tail_max.

    Uniform, so that a canvas says nothing of how long its response is, up to ``tail_max`` beyond
    it: were short tails likelier, a long canvas would speak for a long response, and a decoder
    stretches its answer to fill it. Raises ValueError for a negative ``tail_max``.
    """
    if tail_max < 0:
        raise ValueError(f"tail_length: wanted tail_max >= 0, got {tail_max}; correct tail_max")
    generator = example_generator(seed, epoch, example_id, "tail")
    return int(torch.randint(0, tail_max + 1, (), generator=generator))


def stratified_steps(
    noise_levels: Tensor, *, seed: int, epoch: int, batch_size: int
) -> list[list[int]]:
    """Optimizer steps of an epoch, each with one example of every quantile stratum of ``t``.

    ``noise_levels`` [N] -> ``ceil(N / batch_size)`` lists of example indices, each index once,
    sizes differing by at most one. The examples sorted by level are cut into strata of
    ``num_steps`` consecutive ones, and a random permutation deals each stratum out to the steps;
    the last stratum may be partial and then misses some steps. The spread of ``t`` over a step is
    that of stratified sampling, while each example's own level stays keyed by the example alone.
    """
    order = torch.sort(noise_levels, stable=True).indices
    num_steps = _num_steps(len(order), batch_size)
    generator = example_generator(seed, epoch, "", "order")
    steps: list[list[int]] = [[] for _ in range(num_steps)]
    for stratum in torch.split(order, max(1, num_steps)):
        slots = torch.randperm(num_steps, generator=generator)[: len(stratum)]
        for slot, index in zip(slots.tolist(), stratum.tolist(), strict=True):
            steps[slot].append(index)
    return steps


def shuffled_steps(num_examples: int, *, seed: int, epoch: int, batch_size: int) -> list[list[int]]:
    """Optimizer steps of a plain shuffle: each index once, sizes differing by at most one."""
    num_steps = _num_steps(num_examples, batch_size)
    generator = example_generator(seed, epoch, "", "order")
    order = torch.randperm(num_examples, generator=generator).tolist()
    return [order[step::num_steps] for step in range(num_steps)]


def _num_steps(num_examples: int, batch_size: int) -> int:
    if batch_size < 1:
        raise ValueError(f"batch_size: wanted at least 1, got {batch_size}; correct batch_size")
    return -(-num_examples // batch_size)


def _key(seed: int, epoch: int, stream: Stream, example_id: str) -> int:
    """64-bit hash; the id comes last, so that no two keys share a text."""
    text = f"{seed}/{epoch}/{stream}/{example_id}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
