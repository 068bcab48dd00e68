"""Result tables as text."""

import json
import math
from collections.abc import Sequence
from typing import Any

DRIFT_COLUMNS = ("step", "entropy (nats)", "change", "rank correlation", "change of rates")
TRIAL_COLUMNS = ("arm", "trial", "status", "NELBO", "accuracy", "seconds", "parameters")
METRIC_COLUMNS = (
    *("task", "method", "n", "accuracy", "95 % interval"),
    *("NFE", "tokens/s", "seconds", "latency"),
)


def metric_rows(metrics: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a task of an evaluation's ``metrics.json``.

    Tokens are committed tokens; seconds are an item's share of its batches' time, latency the time
    from its admission to a batch to its last token.
    """
    rows: list[tuple[str, ...]] = []
    for task, values in metrics["tasks"].items():
        low, high = values["interval"]
        rows.append(
            (
                task,
                metrics["name"],
                str(values["num_items"]),
                f"{100 * values['accuracy']:.1f} %",
                f"{100 * low:.1f} - {100 * high:.1f} %",
                f"{values['nfe']:.0f}",
                f"{values['tokens_per_second']:.0f}",
                f"{values['seconds'] / values['num_items']:.3f}",
                f"{values['latency']:.3f}",
            )
        )
    return rows


def trial_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The rows of TRIAL_COLUMNS out of a search's ``trials.parquet``, the best first by arm."""
    ordered = sorted(rows, key=lambda row: (row["arm"], row["status"], _or_last(row["nelbo"])))
    return [
        (
            row["arm"],
            row["trial"] + (" *" if row["is_best"] else ""),
            row["status"],
            "-" if row["nelbo"] is None else f"{row['nelbo']:.4f}",
            "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f} %",
            f"{row['seconds']:.0f}",
            ", ".join(f"{key} {value}" for key, value in json.loads(row["params"]).items()),
        )
        for row in ordered
    ]


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value


def drift_rows(drift: list[dict[str, float]]) -> list[tuple[str, ...]]:
    """The rows of DRIFT_COLUMNS."""
    return [
        (
            f"{row['step']:.0f}",
            f"{row['entropy']:.4f}",
            f"{row['change']:.4f}",
            f"{row['rank_correlation']:.4f}",
            f"{row['rate_change']:.4f}",
        )
        for row in drift
    ]


def text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces, a header and a rule."""
    widths = [max(len(row[k]) for row in [columns, *rows]) for k in range(len(columns))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    header = "  ".join(name.ljust(w) for name, w in zip(columns, widths, strict=True))
    return "\n".join([header, "  ".join("-" * w for w in widths), *lines])
