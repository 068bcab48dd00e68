"""One denoising step: a batch -> masks and weights -> masked tokens' losses -> sums."""

from dataclasses import dataclass

import torch
from torch import Tensor

from weft.batch import Batch
from weft.head import weighted_cross_entropy
from weft.method_config import MethodConfig
from weft.models.base import Denoiser
from weft.noising import Noised, Passes, attention_mask, noised
from weft.objective import row_weights

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
        ``num_masked``, ``num_maskable``, ``num_tokens`` (padding excluded),
        ``num_extra_tokens`` (of forward passes without gradient), ``num_rated`` (rates from
        entropies), ``num_clamped`` (of these); ``bin_nll_sum`` and ``bin_num_masked`` [10] by
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
    ``weft.noising`` says what the objectives mask and weigh, and which forward passes they take
    beside this one. ``gamma = 0`` is plain SFT bit for bit.

    Raises ValueError when frozen entropies are needed and the batch has none, and for a
    ``dataset_beta_ref`` that is missing where its scope asks for it.
    """
    found = noised(
        denoiser, batch, method, Passes(chunk_rows, packed), dataset_beta_ref=dataset_beta_ref
    )
    is_masked = found.is_masked
    hidden = denoiser.hidden_at(found.noisy_ids, attention_mask(batch), is_masked, packed=packed)
    rows, count = row_weights(found.weights, is_masked, batch.is_maskable, method.normalizer)
    loss_sum, nll = weighted_cross_entropy(
        hidden,
        batch.input_ids[is_masked],
        rows,
        denoiser.head,
        chunk_size=chunk_rows,
        by_probability=found.by_probability,
    )
    return StepSums(loss_sum, count, _metrics(batch, found, nll))


@torch.no_grad()
def _metrics(batch: Batch, found: Noised, nll: Tensor) -> dict[str, Tensor]:
    rates, is_masked = found.rates, found.is_masked
    bins = (batch.noise_level * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    bin_of_row = bins.expand_as(is_masked)[is_masked]
    return {
        "nll_sum": nll.sum(),
        "num_masked": is_masked.sum(),
        "num_maskable": batch.is_maskable.sum(),
        "num_tokens": batch.attention_mask.sum(),
        "num_extra_tokens": found.num_extra_tokens,
        "num_rated": rates.num_rated,
        "num_clamped": rates.num_clamped_low + rates.num_clamped_high,
        "bin_nll_sum": nll.new_zeros(NUM_BINS).index_add(0, bin_of_row, nll),
        "bin_num_masked": torch.bincount(bin_of_row, minlength=NUM_BINS),
    }
