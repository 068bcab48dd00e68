"""How a canvas is decoded; importable without torch."""

from dataclasses import dataclass
from typing import Literal, get_args

Remasking = Literal["low_confidence", "random"]
Cache = Literal["none", "prefix", "dual"]


@dataclass(frozen=True, kw_only=True)
class DecodeSettings:
    """Settings of one decoding; ValueError where they cannot run.

    Blocks of ``block_length`` are filled from left to right in ``steps / num_blocks`` steps each; a
    step commits an even share of the block's tokens, the first steps one more where the share is
    not whole. Source: LLaDA (arXiv 2502.09992), algorithms 4 and 5, and its ``generate.py``.
    """

    gen_length: int
    """Tokens of the canvas."""
    block_length: int
    """Tokens of a block; gen_length is a multiple of it."""
    steps: int
    """Over the whole canvas: a multiple of the number of blocks, at most gen_length."""
    temperature: float = 0.0
    """Above 0, Gumbel noise of that size is added to the logits, in float64."""
    remasking: Remasking = "low_confidence"
    """Commit the predictions of highest probability, or random ones."""
    cfg_scale: float = 0.0
    """Above 0, the logits are guided by those of the canvas with its prompt masked."""
    threshold: float = 0.0
    """Above 0, a step commits all predictions of at least this probability, at least one, and a
    block takes as many steps as that takes. The mask token is then never predicted."""
    cache: Cache = "none"
    """Keys and values kept within a block: of what is before it (prefix), or also behind (dual)."""
    early_stop: bool = False
    """Stop once EOS is committed and everything before it: what is left becomes EOS."""
    logits_eos_inf: bool = False
    """EOS is never predicted."""
    confidence_eos_eot_inf: bool = False
    """As in LLaDA's code, where this name takes the end-of-turn token out of the probabilities that
    rank predictions, and EOS if the temperature is 0."""
    eot_token_id: int = -1
    """The end-of-turn token; below 0: there is none."""

    def __post_init__(self) -> None:
        """Check what does not depend on the denoiser."""
        self._check_lengths()
        self._check_values()

    @property
    def num_blocks(self) -> int:
        """Blocks of the canvas."""
        return self.gen_length // self.block_length

    @property
    def steps_per_block(self) -> int:
        """Steps of each block, unless there is a threshold."""
        return self.steps // self.num_blocks

    @property
    def draws(self) -> bool:
        """Whether decoding needs random numbers."""
        return self.temperature > 0 or self.remasking == "random"

    def shares(self) -> list[int]:
        """Tokens that each step of a block commits; the remainder goes to the first ones."""
        share, remainder = divmod(self.block_length, self.steps_per_block)
        return [share + (number < remainder) for number in range(self.steps_per_block)]

    def _check_lengths(self) -> None:
        if self.block_length < 1 or self.gen_length < 1 or self.gen_length % self.block_length:
            raise ValueError(
                f"wanted gen_length a multiple of block_length, got {self.gen_length} and "
                f"{self.block_length}{_nearest(self.gen_length, self.block_length)}"
            )
        blocks = self.num_blocks
        if self.steps < blocks or self.steps % blocks or self.steps > self.gen_length:
            nearest = min(max(1, round(self.steps / blocks)), self.block_length) * blocks
            raise ValueError(
                f"wanted steps a multiple of the {blocks} blocks and at most {self.gen_length}, "
                f"got {self.steps}; the nearest is {nearest}"
            )

    def _check_values(self) -> None:
        for name, allowed in (("remasking", Remasking), ("cache", Cache)):
            value = getattr(self, name)
            if value not in get_args(allowed):
                raise ValueError(f"{name}: wanted {' or '.join(get_args(allowed))}, got {value!r}")
        for name in ("temperature", "cfg_scale"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):  # nan fails as well
                raise ValueError(f"{name}: wanted a finite number from 0 up, got {value}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold: wanted a number from 0 to 1, got {self.threshold}")
        if self.threshold > 0 and self.remasking == "random":
            raise ValueError("threshold: random remasking ranks by no probability; set it to 0")
        if self.cache != "none" and self.cfg_scale > 0:
            raise ValueError("cache: guidance needs whole passes; use none, or cfg_scale 0")


def _nearest(gen_length: int, block_length: int) -> str:
    if min(gen_length, block_length) < 1:
        return ""
    nearest = max(1, round(gen_length / block_length)) * block_length
    return f"; the nearest gen_length is {nearest}"
