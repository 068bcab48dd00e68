"""Figures of the report as SVG text: transparent, in the page's ink, the same bytes each time."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report.drawing import COLOURS, INK, Drawing, drawing_of

History = Sequence[Mapping[str, float]]
"""Logged metrics of one training run, one mapping a logged step."""

_NUM_BINS = 10
_CURVES = (
    ("loss", "loss"),
    ("nll", "NLL of masked tokens (nats)"),
    ("clamp_rate", "share of clamped rates"),
    ("tokens_per_second", "tokens a second"),
)


@dataclass(frozen=True)
class Bar:
    """One evaluation on one task; accuracy and its 95 % interval in [0, 1]."""

    label: str
    checkpoint: str
    accuracy: float
    low: float
    high: float


def assign_colours(names: Sequence[str]) -> dict[str, str]:
    """One colour a checkpoint, the same in every figure of a page; they repeat after eight."""
    distinct = dict.fromkeys(names)
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(distinct)}


def accuracy_bars(tasks: Mapping[str, Sequence[Bar]], colours: Mapping[str, str]) -> Markup:
    """Bars with 95 % intervals, a panel a task, in the ``colours`` of their checkpoints."""
    heights = [len(rows) + 1 for rows in tasks.values()]
    label = "accuracy with 95 % intervals: " + ", ".join(tasks)
    with drawing_of("accuracy", label, 7.0, 0.27 * sum(heights) + 0.4) as drawing:
        panels = drawing.figure.subplots(len(tasks), squeeze=False, height_ratios=heights)
        for axes, (task, rows) in zip(panels[:, 0], tasks.items(), strict=True):
            _bars(axes, task, rows, colours)
    return drawing.svg


def _bars(axes: Any, task: str, rows: Sequence[Bar], colours: Mapping[str, str]) -> None:
    centre, errors = _percent(rows)
    places = np.arange(len(rows))
    fill = [colours[row.checkpoint] for row in rows]
    axes.barh(places, centre, xerr=errors, color=fill, height=0.7, ecolor=INK, capsize=2)
    axes.set_yticks(places, [row.label for row in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_title(f"{task}: accuracy (%)", loc="left")


def learning_curves(
    groups: Mapping[str, Mapping[str, History]], colours: Mapping[str, str]
) -> Markup:
    """Loss, NLL, clamp rate and tokens per second over the optimizer steps of every checkpoint.

    ``groups`` are the checkpoints that differ in their seed alone; of several their mean is drawn,
    with each of them faintly behind it. ``colours`` are those of the groups.
    """
    label = "learning curves of " + ", ".join(groups)
    with drawing_of("learning", label, 9.0, 5.0) as drawing:
        panels = drawing.figure.subplots(2, 2, sharex=True)
        for axes, (key, title) in zip(panels.flat, _CURVES, strict=True):
            for name, histories in groups.items():
                curves = [_points(history, key) for history in histories.values()]
                _group(axes, name, curves, colours[name])
            axes.set_title(title, loc="left")
        for axes in panels[1]:
            axes.set_xlabel("optimizer step")
        panels[0, 0].legend()
    return drawing.svg


def _points(history: History, key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in history if key in row]


def _group(
    axes: Any, name: str, curves: Sequence[Sequence[tuple[float, float]]], colour: str
) -> None:
    """One curve, or the mean of several over the steps that all of them have."""
    if len(curves) == 1:
        _line(axes, name, list(curves[0]), colour)
        return
    for curve in curves:
        axes.plot(*zip(*curve, strict=True), color=colour, alpha=0.35, linewidth=0.8)
    values = [dict(curve) for curve in curves]
    steps = sorted(set.intersection(*(set(found) for found in values)))
    mean = [(step, float(np.mean([found[step] for found in values]))) for step in steps]
    _line(axes, f"{name} (mean of {len(curves)} seeds)", mean, colour)


def _line(axes: Any, name: str, points: list[tuple[float, float]], colour: str) -> None:
    x, y = zip(*points, strict=True) if points else ((), ())
    axes.plot(x, y, ".-", color=colour, label=name, linewidth=1.2, markersize=3)
    axes.grid(visible=True)


def noise_level_losses(histories: Mapping[str, History], colours: Mapping[str, str]) -> Markup:
    """NLL of the masked tokens by noise level, at the last logged step of every checkpoint."""
    with drawing_of("noise-levels", "final NLL by noise level", 5.0, 3.0) as drawing:
        axes = drawing.figure.subplots()
        for name, history in histories.items():
            last = history[-1] if history else {}
            keys = [(k, f"nll_bin_{k}") for k in range(_NUM_BINS)]
            points = [((k + 0.5) / _NUM_BINS, last[key]) for k, key in keys if key in last]
            _line(axes, name, points, colours[name])
        axes.set_xlim(0, 1)
        axes.set_xlabel("noise level t")
        axes.set_title("final NLL of masked tokens (nats)", loc="left")
        axes.legend()
    return drawing.svg


def length_histograms(cards: Mapping[str, Mapping[str, Any]], edges: Sequence[int]) -> Markup:
    """Share of the examples by tokens of prompt and response, a line a source.

    ``cards`` have ``prompt_lengths`` and ``response_lengths``: counts by the lower ``edges``.
    """
    with drawing_of("lengths", "examples by length, source by source", 9.0, 2.8) as drawing:
        panels = drawing.figure.subplots(1, 2, sharey=True)
        for axes, part in zip(panels, ("prompt", "response"), strict=True):
            counts = {name: np.array(card[f"{part}_lengths"]) for name, card in cards.items()}
            last = max((int(np.flatnonzero(c)[-1]) for c in counts.values() if c.any()), default=0)
            for number, (name, found) in enumerate(counts.items()):
                shares = 100 * found[: last + 1] / max(1, found.sum())
                colour = COLOURS[number % len(COLOURS)]
                axes.stairs(shares, range(last + 2), color=colour, label=name, linewidth=1.4)
            names = [*(str(edge) for edge in edges[: last + 1]), ""]
            axes.set_xticks(range(last + 2), names, rotation=45)
            axes.set_xlabel(f"tokens of the {part}, from")
            axes.set_title("examples (%)", loc="left")
            axes.grid(visible=True)
        panels[0].legend()
    return drawing.svg


def drift_curves(histories: Mapping[str, History], colours: Mapping[str, str]) -> Markup:
    """Rank correlation with the frozen entropies, and change of the rates, by optimizer step."""
    with drawing_of("drift", "drift of the entropies by step", 9.0, 2.8) as drawing:
        panels = drawing.figure.subplots(1, 2)
        titles = {
            "rank_correlation": "rank correlation with the frozen entropies",
            "rate_change": "mean change of the relative rates",
        }
        for axes, (key, title) in zip(panels, titles.items(), strict=True):
            for name, rows in histories.items():
                points = [(row["step"], row[key]) for row in rows if np.isfinite(row[key])]
                _line(axes, name, points, colours[name])
            axes.set_title(title, loc="left")
            axes.set_xlabel("optimizer step")
        panels[0].legend()
    return drawing.svg


def accuracy_by_length(
    tasks: Mapping[str, Mapping[str, Sequence[tuple[int, Bar]]]],
) -> Markup:
    """Accuracy over the length of the canvas, a panel a task and a line a checkpoint.

    ``tasks``: task -> checkpoint -> its lengths and bars, in rising order.
    """
    label = "accuracy by length of the canvas"
    with _accuracy_panels("accuracy-length", label, "tokens of the canvas", tasks) as drawing:
        for axes, curves in zip(drawing.figure.axes, tasks.values(), strict=False):
            for number, (name, points) in enumerate(curves.items()):
                lengths, bars = zip(*points, strict=True)
                _with_intervals(axes, name, lengths, bars, number)
        drawing.figure.axes[0].legend()
    return drawing.svg


def accuracy_by_nfe(tasks: Mapping[str, Sequence[tuple[float, Bar]]]) -> Markup:
    """Accuracy over the mean forward passes of an item, a panel a task and a mark an evaluation."""
    label = "accuracy by forward passes"
    with _accuracy_panels("accuracy-passes", label, "forward passes an item", tasks) as drawing:
        for axes, points in zip(drawing.figure.axes, tasks.values(), strict=False):
            for number, (nfe, bar) in enumerate(points):
                _with_intervals(axes, bar.label, [nfe], [bar], number)
            axes.legend(fontsize=7)
    return drawing.svg


@contextmanager
def _accuracy_panels(
    name: str, label: str, x_label: str, tasks: Mapping[str, Any]
) -> Iterator[Drawing]:
    """Axes of accuracies over a logarithmic x, one for each of ``tasks``, two in a row."""
    num_rows = (len(tasks) + 1) // 2
    with drawing_of(name, f"{label}: {', '.join(tasks)}", 9.0, 2.9 * num_rows) as drawing:
        panels = drawing.figure.subplots(num_rows, 2, squeeze=False)
        for axes in panels.flat[len(tasks) :]:
            axes.set_axis_off()
        for axes, task in zip(panels.flat, tasks, strict=False):
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel(x_label)
            axes.set_title(f"{task}: accuracy (%)", loc="left")
            axes.grid(visible=True)
        yield drawing


def _with_intervals(
    axes: Any, name: str, x: Sequence[float], bars: Sequence[Bar], number: int
) -> None:
    centre, errors = _percent(bars)
    colour = COLOURS[number % len(COLOURS)]
    axes.errorbar(x, centre, yerr=errors, fmt=".-", color=colour, label=name, capsize=2)


def _percent(bars: Sequence[Bar]) -> tuple[np.ndarray, np.ndarray]:
    """Accuracies [N] and how far their intervals reach down and up [2, N], in per cent."""
    values = 100 * np.array([(bar.accuracy, bar.low, bar.high) for bar in bars])
    centre, low, high = values.T
    return centre, np.clip([centre - low, high - centre], 0, None)  # rounding may leave -1e-16


def accuracy_over_nfe(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """Accuracy over mean forward passes of an item, a line for each of ``curves``."""
    with drawing_of("accuracy-nfe", "accuracy over forward passes", 5.5, 3.4) as drawing:
        axes = drawing.figure.subplots()
        for number, (name, points) in enumerate(curves.items()):
            shown = [(nfe, 100 * accuracy) for nfe, accuracy in sorted(points)]
            _line(axes, name, shown, COLOURS[number % len(COLOURS)])
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("forward passes an item")
        axes.set_title("accuracy (%)", loc="left")
        axes.legend()
    return drawing.svg


def rate_histograms(rates: np.ndarray, noise_levels: np.ndarray) -> Markup:
    """Shares of tokens by relative rate, and by their own noise level; of uniform ones a line."""
    with drawing_of("rates", "histograms of rates and of noise levels", 9.0, 2.8) as drawing:
        left, right = drawing.figure.subplots(1, 2)
        counts, edges = np.histogram(rates, bins=np.geomspace(rates.min(), rates.max() + 1e-6, 41))
        width = np.diff(edges)
        left.bar(edges[:-1], 100 * counts / len(rates), width, align="edge", color=COLOURS[2])
        left.set_xscale("log")
        left.set_xlabel("relative rate")
        left.set_title("tokens (%)", loc="left")
        counts, edges = np.histogram(noise_levels, bins=np.linspace(0, 1, 26))
        share = 100 * counts / len(noise_levels)
        right.bar(edges[:-1], share, np.diff(edges), align="edge", color=COLOURS[5])
        right.axhline(100 / 25, color=INK, linewidth=0.8, linestyle=":")
        right.set_xlabel("noise level of a token, with t uniform")
        right.set_title("tokens (%); dotted: SFT", loc="left")
    return drawing.svg


def entropy_histogram(entropy: np.ndarray) -> Markup:
    """Share of the tokens by entropy (nats); ``entropy`` [N], N at least 1."""
    counts, edges = np.histogram(entropy, bins=40)
    with drawing_of("entropies", "histogram of the reference entropies", 5.0, 3.0) as drawing:
        axes = drawing.figure.subplots()
        axes.bar(
            edges[:-1], 100 * counts / counts.sum(), np.diff(edges), align="edge", color=COLOURS[4]
        )
        axes.set_yscale("log")
        axes.set_xlabel("entropy (nats)")
        axes.set_title("tokens (%)", loc="left")
        axes.grid(visible=True)
    return drawing.svg
