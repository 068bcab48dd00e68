"""The objectives: which tokens of a batch are masked, and what each of their losses weighs.

All of them see the same draws (noise level and uniforms of each example), and their sums are
divided by the same normaliser. With ``t`` the noise level of a sequence, ``u_i`` the uniform and
``r_i`` the relative rate of a token, ``m_i`` its mask and ``p_i`` the probability of its true text:

| objective | ``m_i`` | ``w_i`` | forward passes beside the one that is learned from |
|---|---|---|---|
| ``weft`` | ``u_i < 1 - (1-t)**r_i`` | ``token_weights`` | one with online entropies, else none |
| ``token_weights`` | ``u_i < t`` | ``r_i / t`` | as ``weft`` |
| ``dft`` | ``u_i < t`` | ``sg(p_i) / t`` | none |
| ``cart`` | ``u_i < t`` | ``context_weights`` | none |
| ``lift`` | ``learnability.choose`` | ``1 / t`` | one where ``t`` is below 1/3 or above 2/3 |

``weft`` and ``token_weights`` with ``gamma = 0`` are plain SFT: ``u_i < t`` and ``1/t``.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.batch import Batch
from weft.entropy import reference_entropies, surprisals
from weft.forward_process import corrupt, token_noise_levels
from weft.learnability import candidate_levels, choose, is_easy, is_hard
from weft.method_config import RATED, MethodConfig
from weft.models.base import Denoiser
from weft.objective import context_weights, token_weights
from weft.rates import Rates, relative_rates, unit_rates


@dataclass(frozen=True)
class Noised:
    """A batch under its noise."""

    noisy_ids: Tensor
    """[B, L] int64."""
    is_masked: Tensor
    """[B, L] bool; only maskable tokens."""
    weights: Tensor
    """[B, L] float32 >= 0, of the losses of masked tokens."""
    by_probability: bool
    """The weights are still to be multiplied by the probability of each token (``dft``)."""
    rates: Rates
    num_extra_tokens: Tensor
    """[] int64, tokens that went through forward passes without gradient."""


@dataclass(frozen=True)
class Passes:
    """How forward passes without gradient are run."""

    chunk_rows: int
    packed: bool


def noised(
    denoiser: Denoiser,
    batch: Batch,
    method: MethodConfig,
    passes: Passes,
    *,
    dataset_beta_ref: float | None = None,
) -> Noised:
    """``batch`` as the objective of ``method`` masks and weighs it; see the table above.

    Raises ValueError when frozen entropies are needed and the batch has none, and for a
    ``dataset_beta_ref`` that is missing where its scope asks for it.
    """
    rates, num_extra = _rates(denoiser, batch, method, passes, dataset_beta_ref)
    uniform = batch.noise_level.expand_as(batch.uniforms)
    levels = uniform
    if method.objective == "weft":
        levels = token_noise_levels(batch.noise_level, rates.relative)
    noisy_ids, is_masked = _corrupt(denoiser, batch, levels)
    if method.objective == "lift":
        noisy_ids, is_masked, num_extra = _by_learnability(denoiser, batch, is_masked, passes)
    return Noised(
        noisy_ids=noisy_ids,
        is_masked=is_masked,
        weights=_weights(batch, method, rates, levels, is_masked),
        by_probability=method.objective == "dft",
        rates=rates,
        num_extra_tokens=num_extra,
    )


def attention_mask(batch: Batch) -> Tensor | None:
    """None without padding, which lets attention take its faster path."""
    return batch.attention_mask if batch.is_padded else None


def _weights(
    batch: Batch, method: MethodConfig, rates: Rates, levels: Tensor, is_masked: Tensor
) -> Tensor:
    if method.objective == "cart":
        return context_weights(is_masked, batch.attention_mask, p=method.cart_p)
    weights = token_weights(
        batch.noise_level,
        rates.relative,
        levels,
        weighting=method.weighting if method.objective == "weft" else "paper",
        alpha=method.alpha,
    )
    return rates.relative * weights if method.objective == "token_weights" else weights


def _corrupt(denoiser: Denoiser, batch: Batch, levels: Tensor) -> tuple[Tensor, Tensor]:
    return corrupt(
        batch.input_ids, levels, batch.uniforms, batch.is_maskable, denoiser.mask_token_id
    )


def _by_learnability(
    denoiser: Denoiser, batch: Batch, is_masked: Tensor, passes: Passes
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy ids and mask of ``lift``, and the tokens of the pass that chose them."""
    levels = candidate_levels(batch.noise_level, batch.margin)
    _, is_candidate = _corrupt(denoiser, batch, levels.expand_as(batch.uniforms))
    asks = (is_hard(batch.noise_level) | is_easy(batch.noise_level)).squeeze(1)
    nll = torch.zeros_like(batch.uniforms)
    # With weights spread over ranks a pass is a common effort: a rank of which no row asks makes
    # one all the same, of a row whose surprisals then decide nothing.
    rows = asks if bool(asks.any()) else torch.arange(len(asks), device=asks.device) == 0
    nll[rows] = surprisals(
        denoiser,
        batch.input_ids[rows],
        batch.attention_mask[rows] if batch.is_padded else None,
        is_candidate[rows],
        chunk_size=passes.chunk_rows,
        packed=passes.packed,
    )
    is_masked = choose(is_masked, is_candidate, nll, batch.noise_level)
    noisy_ids = torch.where(is_masked, denoiser.mask_token_id, batch.input_ids)
    return noisy_ids, is_masked, batch.attention_mask[asks].sum()


def _rates(
    denoiser: Denoiser,
    batch: Batch,
    method: MethodConfig,
    passes: Passes,
    dataset_beta_ref: float | None,
) -> tuple[Rates, Tensor]:
    """The rates, constants to the gradient, and the tokens of the pass that they took."""
    num_extra = batch.attention_mask.new_zeros((), dtype=torch.int64)
    if method.objective not in RATED:
        return unit_rates(batch.entropy), num_extra
    entropy = batch.entropy
    if method.gamma != 0:
        if method.entropies == "online":
            entropy = reference_entropies(
                denoiser,
                batch.input_ids,
                attention_mask(batch),
                batch.is_maskable,
                estimator=method.online_estimator,
                chunk_size=passes.chunk_rows,
                packed=passes.packed,
            )
            num_extra = batch.attention_mask.sum()
        else:
            _require_entropies(batch, method)
    rates = relative_rates(
        entropy, batch.is_maskable, batch.is_tail, method, dataset_beta_ref=dataset_beta_ref
    )
    return rates, num_extra


def _require_entropies(batch: Batch, method: MethodConfig) -> None:
    missing = "entropy" if not batch.has_entropy else None
    if missing is None and method.tail == "entropy" and not batch.has_tail_entropy:
        missing = "tail_entropy"
    if missing is not None:
        raise ValueError(
            f"denoising_step: gamma = {method.gamma} with frozen entropies wanted {missing} on "
            f"every example, got examples without it; run the reference pass, or choose gamma = 0"
        )
