"""One denoising step: a batch -> rates -> noise -> masked tokens' losses -> sums."""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.batch import Batch
from weft.entropy import reference_entropies
from weft.forward_process import corrupt, token_noise_levels
from weft.head import weighted_cross_entropy
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.objective import row_weights, token_weights
from weft.rates import Rates, relative_rates

NUM_BINS = 10
"""Bins of the noise level t of a sequence: equal parts of (0, 1)."""


@dataclass(frozen=True)
class StepSums:
    """Sums over a batch; all add up over micro-batches and ranks."""

    loss_sum: Tensor
    """[] float32, differentiable; divide it by the global ``normalizer_count``."""
    normalizer_count: Tensor
    """[] int64, see ``weft.objective.row_weights``."""
    metrics: dict[str, Tensor]
    """Detached: counts int64, other sums float32; see ``metric_sums``."""

    def metric_sums(self) -> dict[str, Tensor]:
        """Everything, detached, by name; scalars unless they start with ``bin_``.

        ``loss_sum``, ``normalizer_count``; ``nll_sum`` (nats, masked tokens, unweighted),
        ``num_masked``, ``num_maskable``, ``num_tokens`` (padding excluded), ``num_rated`` (rates
        from entropies), ``num_clamped`` (of these); ``bin_nll_sum`` and ``bin_num_masked`` [10] by
        noise level of the sequence.
        """
        return {
            "loss_sum": self.loss_sum.detach(),
            "normalizer_count": self.normalizer_count,
            **self.metrics,
        }


def denoising_step(
    denoiser: Denoiser,
    batch: Batch,
    method: MethodConfig,
    *,
    dataset_beta_ref: float | None = None,
    chunk_rows: int = 8192,
    packed: bool = False,
) -> StepSums:
    """The objective's sums on ``batch``, whose tensors are on the denoiser's device.

    ``chunk_rows`` bounds the rows of logits held at once. ``packed`` takes the padding out before
    the network runs; see ``Denoiser.hidden_at``. The rates are constants to the gradient.
    Under ``entropies = "online"`` a second forward pass, all maskable tokens masked and without
    gradient, gives the entropies (the published algorithm); otherwise the batch's own are used.
    ``gamma = 0`` is plain SFT bit for bit and needs neither.

    Raises ValueError when frozen entropies are needed and the batch has none, and for a
    ``dataset_beta_ref`` that is missing where its scope asks for it.
    """
    rates = _rates(denoiser, batch, method, dataset_beta_ref, chunk_rows, packed)
    levels = token_noise_levels(batch.noise_level, rates.relative)
    noisy_ids, is_masked = corrupt(
        batch.input_ids, levels, batch.uniforms, batch.is_maskable, denoiser.mask_token_id
    )
    hidden = denoiser.hidden_at(noisy_ids, _attention_mask(batch), is_masked, packed=packed)
    weights = token_weights(
        batch.noise_level,
        rates.relative,
        levels,
        weighting=method.weighting,
        alpha=method.alpha,
    )
    rows, count = row_weights(weights, is_masked, batch.is_maskable, method.normalizer)
    loss_sum, nll = weighted_cross_entropy(
        hidden, batch.input_ids[is_masked], rows, denoiser.head, chunk_size=chunk_rows
    )
    return StepSums(loss_sum, count, _metrics(batch, rates, is_masked, nll))


def _rates(
    denoiser: Denoiser,
    batch: Batch,
    method: MethodConfig,
    dataset_beta_ref: float | None,
    chunk_rows: int,
    packed: bool,
) -> Rates:
    entropy = batch.entropy
    if method.gamma != 0:
        if method.entropies == "online":
            entropy = reference_entropies(
                denoiser,
                batch.input_ids,
                _attention_mask(batch),
                batch.is_maskable,
                chunk_size=chunk_rows,
                packed=packed,
            )
        else:
            _require_entropies(batch, method)
    return relative_rates(
        entropy, batch.is_maskable, batch.is_tail, method, dataset_beta_ref=dataset_beta_ref
    )


def _require_entropies(batch: Batch, method: MethodConfig) -> None:
    missing = "entropy" if not batch.has_entropy else None
    if missing is None and method.tail == "entropy" and not batch.has_tail_entropy:
        missing = "tail_entropy"
    if missing is not None:
        raise ValueError(
            f"denoising_step: gamma = {method.gamma} with frozen entropies wanted {missing} on "
            f"every example, got examples without it; run the reference pass, or choose gamma = 0"
        )


def _attention_mask(batch: Batch) -> Tensor | None:
    """None without padding, which lets attention take its faster path."""
    return batch.attention_mask if batch.is_padded else None


@torch.no_grad()
def _metrics(batch: Batch, rates: Rates, is_masked: Tensor, nll: Tensor) -> dict[str, Tensor]:
    bins = (batch.noise_level * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bin_of_row = bins.expand_as(is_masked)[is_masked]
    return {
        "nll_sum": nll.sum(),
        "num_masked": is_masked.sum(),
        "num_maskable": batch.is_maskable.sum(),
        "num_tokens": batch.attention_mask.sum(),
        "num_rated": rates.num_rated,
        "num_clamped": rates.num_clamped_low + rates.num_clamped_high,
        "bin_nll_sum": nll.new_zeros(NUM_BINS).index_add(0, bin_of_row, nll),
        "bin_num_masked": torch.bincount(bin_of_row, minlength=NUM_BINS),
    }
