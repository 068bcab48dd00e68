"""The parts of the report that show tokens: painted by entropy, and by the step of unmasking."""

from itertools import zip_longest
from typing import Any

import numpy as np

from pipeline.config import RatesSection, ReportSection, RunConfig
from pipeline.report import figures, paint
from pipeline.report.data import EntropySample, Evaluation, TokenReader, Trace

_NUM_TOP_TOKENS = 20
_GOLDEN = 0.6180339887498949
"""Its multiples modulo 1 are spread evenly, however many there are."""
_STRONGEST_QUANTILE = 0.99
"""Tokens from this quantile of the entropies on have the strongest colour."""


def entropies(sample: EntropySample, config: RunConfig, reader: TokenReader) -> dict[str, Any]:
    """Histogram, tokens of the highest entropy, and traces painted by entropy."""
    top = float(np.quantile(sample.entropy, _STRONGEST_QUANTILE))
    beta_ref = _mean_beta(sample, config.rates)
    return {
        "problem": reader.problem,
        "figure": figures.entropy_histogram(sample.entropy),
        "rates_figure": _rates_figure(sample, config.rates, beta_ref),
        "summary": _entropy_summary(sample),
        "rates": _rates_in_words(config.rates),
        "tokens": top_tokens(sample, reader),
        "least_tokens": top_tokens(sample, reader, highest=False),
        "legend": paint.entropy_legend(top),
        "traces": [_trace(t, config.rates, beta_ref, reader, top) for t in sample.traces],
    }


def _entropy_summary(sample: EntropySample) -> str:
    values = sample.entropy
    return (
        f"{len(values)} response tokens of {sample.num_examples} examples (of "
        f"{sample.num_examples_in_all}): mean {values.mean():.4f} nats, median "
        f"{np.median(values):.4f}, highest {values.max():.4f}; "
        f"{100 * np.mean(values < 0.01):.1f} % of the tokens below 0.01"
    )


def _rates_in_words(rates: RatesSection) -> str:
    scope = {
        "sequence": "the mean over the trace",
        "batch": "the mean over the data, standing in for that of each batch",
        "dataset": "the mean over the data",
    }[rates.beta_ref]
    return (
        f"relative rate: entropy to the power of gamma = {rates.gamma:g}, divided by {scope}, "
        f"clamped to {rates.rate_min:g} - {rates.rate_max:g}; tail tokens are left out here"
    )


def _mean_beta(sample: EntropySample, rates: RatesSection) -> float:
    import torch

    from weft.rates import mean_beta

    return mean_beta([torch.tensor(sample.entropy)], rates.gamma)


def _rates_figure(sample: EntropySample, rates: RatesSection, beta_ref: float) -> Any:
    """How often each relative rate occurs, and each noise level of a token under uniform t."""
    import torch

    from weft.forward_process import token_noise_levels

    responses = np.split(sample.entropy, np.cumsum(sample.lengths)[:-1])
    found = [_relative_rates(r.tolist(), rates, beta_ref) for r in responses]
    relative = np.concatenate([np.asarray(values) for values in found])
    # Evenly spread noise levels of the sequence, one after the other over the tokens.
    t = (torch.arange(len(relative)) * _GOLDEN % 1).clamp(1e-3, 1 - 1e-3).double()
    levels = token_noise_levels(t, torch.from_numpy(relative).double())
    return figures.rate_histograms(relative, levels.numpy())


def _relative_rates(entropy: list[float], rates: RatesSection, beta_ref: float) -> list[float]:
    import torch

    from weft.method_config import MethodConfig
    from weft.rates import relative_rates

    method = MethodConfig(
        gamma=rates.gamma,
        beta_ref="sequence" if rates.beta_ref == "sequence" else "dataset",
        rate_min=rates.rate_min,
        rate_max=rates.rate_max,
    )
    values = torch.tensor([entropy])
    everywhere = torch.ones_like(values, dtype=torch.bool)
    found = relative_rates(values, everywhere, ~everywhere, method, dataset_beta_ref=beta_ref)
    return [float(rate) for rate in found.relative[0]]


def top_tokens(
    sample: EntropySample, reader: TokenReader, *, highest: bool = True
) -> list[tuple[str, str, str]]:
    """Text, mean entropy (nats) and count of the tokens that are the most uncertain on average.

    The least uncertain ones unless ``highest``.

    Tokens that are rarer than one in a thousand are left out: their mean says little.
    """
    counts = np.bincount(sample.token_ids)
    sums = np.bincount(sample.token_ids, weights=sample.entropy)
    ids = np.flatnonzero(counts >= max(1, len(sample.token_ids) // 1000))
    means = sums[ids] / counts[ids]
    best = np.argsort(-means if highest else means, kind="stable")[:_NUM_TOP_TOKENS]
    texts = reader.texts([int(ids[k]) for k in best])
    return [
        (repr(text), f"{means[k]:.4f}", str(counts[ids[k]]))
        for text, k in zip(texts, best, strict=True)
    ]


def _trace(
    trace: Trace, rates: RatesSection, beta_ref: float, reader: TokenReader, top: float
) -> dict[str, Any]:
    relative = _relative_rates(trace.entropy, rates, beta_ref)
    texts = reader.texts(trace.response_ids)
    return {
        "title": f"{trace.source}, example {trace.example_id}, {len(texts)} tokens",
        "prompt": reader.text(trace.prompt_ids),
        "tokens": paint.paint_entropies(texts, trace.entropy, relative, top=top),
    }


def generations(evaluation: Evaluation, section: ReportSection, reader: TokenReader) -> Any:
    """Some generations of every task of ``evaluation``, painted by the order of unmasking."""
    return {
        "name": evaluation.name,
        "problem": reader.problem,
        "shown": [_generation(row, reader) for row in shown_rows(evaluation, section)],
    }


def shown_rows(evaluation: Evaluation, section: ReportSection) -> list[dict[str, Any]]:
    """The rows of every task whose generations are shown, right and wrong ones in turn."""
    return [
        row
        for task in evaluation.metrics["tasks"]
        for row in _mixed([r for r in evaluation.rows if r["task"] == task])[: section.num_examples]
    ]


def _mixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Right and wrong rows in turn, as long as there are both."""
    right, wrong = ([r for r in rows if r["correct"] is verdict] for verdict in (True, False))
    pairs = zip_longest(right, wrong)
    return [row for pair in pairs for row in pair if row is not None]


def _generation(row: dict[str, Any], reader: TokenReader) -> dict[str, Any]:
    is_eos = [token == reader.eos_token_id for token in row["tokens"]]
    painted = paint.paint_order(reader.texts(row["tokens"]), row["unmask_step"], is_eos)
    return {
        "title": f"{row['task']}, item {row['item_id']}, {row['nfe']} forward passes",
        "is_correct": row["correct"],
        "extracted": row["extracted"],
        "prompt": row["prompt"],
        "tokens": painted,
        # Ids that cannot be turned into tokens still have their text in the row.
        "text": "" if reader.decode else row["generation"],
    }
