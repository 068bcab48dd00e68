"""Training metrics: sums that add over micro-batches, ranks and steps, and the values they give."""

import torch
from torch import Tensor

MetricSums = dict[str, Tensor]


def add_sums(first: MetricSums, second: MetricSums) -> MetricSums:
    """Entry-wise sum; a name that only one of them has is kept as it is."""
    names = {*first, *second}
    return {
        name: first[name] + second[name]
        if name in first and name in second
        else first.get(name, second.get(name, torch.zeros(())))
        for name in names
    }


def summarize(sums: MetricSums, seconds: float) -> dict[str, float]:
    """Loss, loss by noise-level bin, mask fraction, clamp rate and tokens per second.

    ``clamp_rate`` is the clamped share of the tokens whose rates come from entropies;
    ``extra_tokens`` went through forward passes without gradient, beside the ``tokens``;
    ``loss`` is the normalised objective; ``nll_bin_k`` the mean negative log-likelihood (nats) of
    the masked tokens of sequences whose noise level lies in the k-th tenth of (0, 1).
    """
    scalars = {name: float(value) for name, value in sums.items() if value.ndim == 0}
    values = {
        "loss": _ratio(scalars["loss_sum"], scalars["normalizer_count"]),
        "nll": _ratio(scalars["nll_sum"], scalars["num_masked"]),
        "mask_fraction": scalars["num_masked"] / scalars["num_maskable"],
        "clamp_rate": _ratio(scalars["num_clamped"], scalars["num_rated"]),
        "tokens_per_second": _ratio(scalars["num_tokens"], seconds),
        "tokens": scalars["num_tokens"],
        "extra_tokens": scalars["num_extra_tokens"],
        "seconds": seconds,
    }
    bins = zip(sums["bin_nll_sum"].tolist(), sums["bin_num_masked"].tolist(), strict=True)
    return values | {
        f"nll_bin_{number}": total / count for number, (total, count) in enumerate(bins) if count
    }


def _ratio(total: float, count: float) -> float:
    return total / count if count else 0.0
