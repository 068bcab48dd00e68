"""Figures of a search: its trials by their measures, parameters and times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.report.drawing import COLOURS, INK, drawing_of

_COLOUR_MAP = "viridis_r"


@dataclass(frozen=True)
class TrialCurve:
    """A trial as the figures need it."""

    arm: str
    params: Mapping[str, Any]
    percents: Sequence[float]
    """Share of its steps at each measure, 0 to 100."""
    nelbos: Sequence[float]
    """Held-out NELBO at each measure, nats a token; not empty."""
    seconds: float
    accuracy: float | None
    """In [0, 1]; of the finalists."""
    is_finished: bool


def nelbo_curves(name: str, trials: Sequence[TrialCurve]) -> Markup:
    """Held-out NELBO over the share of a trial's steps; those that were stopped are faint."""
    label = f"held-out NELBO of the trials of {name}"
    with drawing_of(f"tune-curves-{name}", label, 5.5, 3.2) as drawing:
        axes = drawing.figure.subplots()
        colours, named = _colours(trials), set()
        for trial in trials:
            axes.plot(
                trial.percents,
                trial.nelbos,
                ".-",
                color=colours[trial.arm],
                label=None if trial.arm in named else trial.arm,
                alpha=0.9 if trial.is_finished else 0.3,
                linewidth=1.0,
                markersize=3,
            )
            named.add(trial.arm)
        _spread(axes, [value for trial in trials for value in trial.nelbos])
        axes.set_xlabel("share of the trial's steps (%)")
        axes.set_title("held-out NELBO (nats a token)", loc="left")
        axes.grid(visible=True)
        axes.legend()
    return drawing.svg


def parallel_coordinates(name: str, trials: Sequence[TrialCurve]) -> Markup:
    """A line a trial through its parameters, coloured by the last measure; dark is better."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.params))
    label = f"parameters of the trials of {name} by NELBO"
    with drawing_of(f"tune-parallel-{name}", label, 1.6 + 1.3 * len(keys), 3.4) as drawing:
        axes = drawing.figure.subplots()
        last = np.array([trial.nelbos[-1] for trial in trials])
        order = last.argsort(kind="stable").argsort(kind="stable") / max(1, len(last) - 1)
        import matplotlib

        colour_map = matplotlib.colormaps[_COLOUR_MAP]
        columns = [_column([trial.params.get(key) for trial in trials]) for key in keys]
        columns.append(_column(last.tolist()))
        for row in np.argsort(-last):  # the best on top
            heights = [heights[row] for heights, _ in columns]
            axes.plot(range(len(columns)), heights, color=colour_map(1 - order[row]), linewidth=1.1)
        for place, (_, marks) in enumerate(columns):
            axes.axvline(place, color=INK, linewidth=0.6)
            for height, text in marks:
                axes.annotate(
                    text,
                    (place, height),
                    (3, 0),
                    textcoords="offset points",
                    fontsize=7,
                    va="center",
                )
        names = [key.partition(".")[2].replace("_", "\n", 1) for key in keys]
        axes.set_xticks(range(len(columns)), [*names, "NELBO"], fontsize=7)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(-0.1, len(columns) - 0.4)
    return drawing.svg


def importance_bars(name: str, arms: Mapping[str, Mapping[str, float]]) -> Markup:
    """Importance of each parameter for the last measure, a panel an arm; they add up to 1."""
    label = f"importance of the parameters of {name}"
    heights = [len(values) + 1 for values in arms.values()]
    with drawing_of(f"tune-importance-{name}", label, 5.0, 0.3 * sum(heights) + 0.4) as drawing:
        panels = drawing.figure.subplots(len(arms), squeeze=False, height_ratios=heights)
        for axes, (arm, values) in zip(panels[:, 0], arms.items(), strict=True):
            axes.barh(list(values), list(values.values()), color=COLOURS[0], height=0.7)
            axes.invert_yaxis()
            axes.set_xlim(0, 1)
            axes.set_title(f"{arm}: importance for the NELBO", loc="left")
    return drawing.svg


def pareto(name: str, trials: Sequence[TrialCurve]) -> Markup:
    """Finished trials by time: NELBO of all, accuracy of the finalists; the front is a line."""
    finished = [trial for trial in trials if trial.is_finished]
    judged = [trial for trial in finished if trial.accuracy is not None]
    label = f"NELBO and accuracy of the trials of {name} by training time"
    with drawing_of(f"tune-pareto-{name}", label, 9.0, 3.0) as drawing:
        left, right = drawing.figure.subplots(1, 2)
        colours = _colours(trials)
        for arm, colour in colours.items():
            by_nelbo = [(t.seconds, t.nelbos[-1]) for t in finished if t.arm == arm]
            by_accuracy = [(t.seconds, _percent(t)) for t in judged if t.arm == arm]
            for axes, points in ((left, by_nelbo), (right, by_accuracy)):
                x, y = zip(*points, strict=True) if points else ((), ())
                axes.plot(x, y, "o", color=colour, label=arm)
        _front(left, [(t.seconds, t.nelbos[-1]) for t in finished])
        _front(right, [(t.seconds, -_percent(t)) for t in judged], sign=-1)
        left.set_title("held-out NELBO (nats a token)", loc="left")
        right.set_title("mean accuracy of the finalists (%)", loc="left")
        for axes in (left, right):
            axes.set_xlabel("seconds of training")
            axes.grid(visible=True)
        left.legend()
    return drawing.svg


def _percent(trial: TrialCurve) -> float:
    return 100 * (trial.accuracy or 0.0)


def _front(axes: Any, points: Sequence[tuple[float, float]], sign: int = 1) -> None:
    """A line through the points of which none has both less time and a smaller second value."""
    best, front = np.inf, []
    for seconds, value in sorted(points):
        if value < best:
            best = value
            front.append((seconds, sign * value))
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=INK, linewidth=0.8, drawstyle="steps-post")


def _colours(trials: Sequence[TrialCurve]) -> dict[str, str]:
    arms = dict.fromkeys(trial.arm for trial in trials)
    return {arm: COLOURS[k % len(COLOURS)] for k, arm in enumerate(arms)}


def _spread(axes: Any, values: Sequence[float]) -> None:
    """Limits of y that leave out the few values far above, which would flatten the rest."""
    top = float(np.quantile(values, 0.95))
    low = min(values)
    axes.set_ylim(low - 0.05 * (top - low), top + 0.05 * (top - low) + 1e-9)


def _column(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in [0, 1] of ``values`` on one axis, nan for those that are not there; its marks.

    Numbers that spread over more than a factor of 20 are laid out by their logarithm.
    """
    there = [value for value in values if value is not None]
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in there):
        numbers = np.array([np.nan if v is None else float(v) for v in values])
        low, high = np.nanmin(numbers), np.nanmax(numbers)
        if low > 0 and high / low > 20:
            numbers = np.log(numbers)
        least, most = np.nanmin(numbers), np.nanmax(numbers)
        heights = (numbers - least) / (most - least) if most > least else numbers * 0 + 0.5
        marks = (
            [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")] if most > least else [(0.5, f"{low:.3g}")]
        )
        return heights.tolist(), marks
    names = sorted({str(value) for value in there})
    places = {name: k / max(1, len(names) - 1) for k, name in enumerate(names)}
    heights = [np.nan if value is None else places[str(value)] for value in values]
    return heights, [(height, name) for name, height in places.items()]
