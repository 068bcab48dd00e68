"""Settings of the method: rates, weights and normaliser. Importable without torch."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

BetaRefScope: TypeAlias = Literal["sequence", "batch", "dataset"]
TailRate: TypeAlias = Literal["one", "entropy"]
EntropySource: TypeAlias = Literal["frozen", "online"]
ObjectiveName: TypeAlias = Literal["weft", "token_weights", "dft", "cart", "lift"]
Weighting: TypeAlias = Literal["paper", "elbo", "partial"]
Normalizer: TypeAlias = Literal["tokens", "sequence", "masked"]
EosPolicy: TypeAlias = Literal["random_tail", "pad_to_max", "pad_to_batch", "one"]
Estimator: TypeAlias = Literal["full_mask", "expected", "nll"]
OnlineEstimator: TypeAlias = Literal["full_mask", "nll"]
RATED: tuple[ObjectiveName, ...] = ("weft", "token_weights")
"""The objectives that make something of the entropies; the others mask and weigh without them."""


@dataclass(frozen=True, kw_only=True)
class MethodConfig:
    """What ``weft.step.denoising_step`` computes; ``gamma = 0`` is plain SFT.

    Raises ValueError for a value outside its domain.
    """

    objective: ObjectiveName = "weft"
    """Which tokens are masked, and how their losses are weighed; see ``weft.noising``."""
    gamma: float = 0.5
    """Exponent of the entropy, >= 0: ``beta_i = H_i ** gamma``."""
    beta_ref: BetaRefScope = "sequence"
    """Scope of the mean of ``beta_i`` that every rate is divided by."""
    rate_min: float = 0.1
    """Lower clamp of the relative rate, in [0, 1]."""
    rate_max: float = 10.0
    """Upper clamp of the relative rate, >= 1."""
    tail: TailRate = "one"
    """one: tail EOS tokens have rate 1 and stay out of beta_ref; entropy: by the formula."""
    entropies: EntropySource = "frozen"
    """frozen: the batch's stored entropies; online: recomputed with the current weights."""
    online_estimator: OnlineEstimator = "full_mask"
    """What is recomputed, see ``weft.entropy.reference_entropies``; unused by frozen ones."""
    weighting: Weighting = "paper"
    """Weight of a masked token, see ``weft.objective.token_weights``."""
    alpha: float = 0.5
    """Exponent of the weighting ``partial``, in [0, 1]; unused by the others."""
    cart_p: float = 0.1
    """Decay of the objective ``cart`` with the distance of context, in (0, 1)."""
    normalizer: Normalizer = "tokens"
    """What the summed loss of an optimizer step is divided by."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _require(0 <= self.gamma < math.inf, "gamma", "a finite number >= 0", self.gamma)
        _require(0 <= self.rate_min <= 1, "rate_min", "a number in [0, 1]", self.rate_min)
        _require(1 <= self.rate_max < math.inf, "rate_max", "a finite number >= 1", self.rate_max)
        _require(0 <= self.alpha <= 1, "alpha", "a number in [0, 1]", self.alpha)
        _require(0 < self.cart_p < 1, "cart_p", "a number in (0, 1)", self.cart_p)
        _require_choice("objective", self.objective, get_args(ObjectiveName))
        _require_choice("online_estimator", self.online_estimator, get_args(OnlineEstimator))
        _require_choice("beta_ref", self.beta_ref, get_args(BetaRefScope))
        _require_choice("tail", self.tail, get_args(TailRate))
        _require_choice("entropies", self.entropies, get_args(EntropySource))
        _require_choice("weighting", self.weighting, get_args(Weighting))
        _require_choice("normalizer", self.normalizer, get_args(Normalizer))


def _require(valid: bool, name: str, wanted: str, got: object) -> None:
    if not valid:
        raise ValueError(f"MethodConfig.{name}: wanted {wanted}, got {got!r}; correct this setting")


def _require_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    _require(got in choices, name, f"one of {', '.join(choices)}", got)
