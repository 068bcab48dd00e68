"""The figures of a study, made of its results alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import ScalarFormatter

from pipeline.report.drawing import COLOURS, INK, drawing_of
from pipeline.report.figures import drift_curves
from pipeline.train.held_out import NELBO
from studies.found import (
    SETS,
    Comparison,
    Findings,
    compare,
    have_common_seeds,
    methods_of,
    read_study,
)
from studies.plan import BASELINE, WEFT, Study
from studies.results import Results
from studies.tables import sizes_of

_DASHES = ("-", "--", ":")
_LINEAR = 20
"""Points within which a difference is drawn to scale, if some are much larger."""


def all_figures(study: Study, results: Results) -> dict[str, Markup]:
    """Every figure for which there are results, by name."""
    found, size = read_study(study, results), study.plan.base_size
    figures = {}
    if (BASELINE, size) in found:
        figures["accuracy"] = difference_plot(found, size)
        figures["curves"] = curve_plot(found, size)
    if len(sizes_of(found)) > 1:
        figures["sizes"] = size_plot(found)
    run = study.drift_run()
    drift = results.drift(study.config_of(run))
    if drift:
        figures["drift"] = drift_curves({run.name: drift}, {run.name: COLOURS[0]})
    return figures


def difference_plot(found: Findings, size: int) -> Markup:
    """Accuracy of each method less the baseline's: each seed, their mean and its interval."""
    rows = {
        method: compare(runs, found[BASELINE, size])
        for method, runs in methods_of(found, size)
        if method != BASELINE and have_common_seeds(runs, found[BASELINE, size])
    }
    label = f"accuracy less that of {BASELINE}, {size} traces, with 95 % intervals"
    with drawing_of("study-accuracy", label, 10.0, 0.24 * len(rows) + 1.0) as drawing:
        panels = drawing.figure.subplots(1, len(SETS), sharey=True)
        for number, (axes, (items, task)) in enumerate(zip(panels, SETS, strict=True)):
            axes.axvline(0.0, color=INK, linewidth=0.8)
            _points(axes, [compared[number] for compared in rows.values()], horizontal=True)
            axes.set_title(f"{task}, {items}")
            axes.set_xlabel("points")
            if axes.get_xlim()[0] < -2 * _LINEAR:
                axes.set_xscale("symlog", linthresh=_LINEAR)
                axes.set_xticks([-60, -_LINEAR, -10, 0, 10], [-60, -_LINEAR, -10, 0, 10])
            axes.grid(visible=True, axis="x")
        panels[0].set_yticks(range(len(rows)), list(rows))
        panels[0].invert_yaxis()
    return drawing.svg


def _points(axes: Any, compared: Sequence[Comparison], *, horizontal: bool = False) -> None:
    """Differences and intervals one beside the other, each seed as a small mark."""
    for place, one in enumerate(compared):
        ends = 100 * np.array([one.low, one.high])
        seeds = 100 * np.array(one.by_seed)
        at = np.full(len(seeds), float(place))
        pairs = (
            (ends, [place, place], {"color": COLOURS[0], "linewidth": 1.4}),
            ([100 * one.difference], [place], {"color": COLOURS[0], "marker": "o"}),
            (seeds, at, {"color": COLOURS[1], "marker": "|" if horizontal else "_", "ls": "none"}),
        )
        for values, places, style in pairs:
            axes.plot(*((values, places) if horizontal else (places, values)), **style)


def curve_plot(found: Findings, size: int) -> Markup:
    """Held-out NELBO by step, the mean of the seeds; accuracy on the way, of the first seed."""
    label = "held-out NELBO and accuracy by optimizer step"
    with drawing_of("study-curves", label, 10.0, 4.2) as drawing:
        left, right = drawing.figure.subplots(1, 2)
        for number, (method, runs) in enumerate(methods_of(found, size)):
            dash = _DASHES[number // len(COLOURS) % len(_DASHES)]
            style = {"color": COLOURS[number % len(COLOURS)], "ls": dash, "linewidth": 1.2}
            curves = [[(r["step"], r[NELBO]) for r in f.history if NELBO in r] for f in runs]
            if curves[0]:
                steps, values = np.array(curves).mean(axis=0).T
                left.plot(steps, values, label=method, **style)
            accuracies = runs[0].curve()
            if accuracies:
                steps, values = np.array(accuracies).T
                right.plot(steps, 100 * values, label=method, marker=".", **style)
        left.set_title("held-out NELBO (nats a token)")
        left.set_yscale("log")
        for which in (left.yaxis.set_major_formatter, left.yaxis.set_minor_formatter):
            which(ScalarFormatter())
        right.set_title("accuracy of the first seed (%)")
        for axes in (left, right):
            axes.set_xlabel("optimizer step")
            axes.grid(visible=True)
        handles, names = right.get_legend_handles_labels()
        drawing.figure.legend(handles, names, loc="outside right center", fontsize=7.5)
    return drawing.svg


def size_plot(found: Findings) -> Markup:
    """WeFT less SFT at each size: each seed, the mean and its interval."""
    sizes = sizes_of(found)
    label = "accuracy of WeFT less that of SFT by number of traces, with 95 % intervals"
    with drawing_of("study-sizes", label, 9.0, 2.6) as drawing:
        panels = drawing.figure.subplots(1, len(SETS), sharey=True)
        compared = [compare(found[WEFT, size], found[BASELINE, size]) for size in sizes]
        for number, (axes, (items, task)) in enumerate(zip(panels, SETS, strict=True)):
            axes.axhline(0.0, color=INK, linewidth=0.8)
            _points(axes, [of_size[number] for of_size in compared])
            axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
            axes.set_xlim(-0.5, len(sizes) - 0.5)
            axes.set_title(f"{task}, {items}")
            axes.set_xlabel("traces of each puzzle")
            axes.grid(visible=True, axis="y")
        panels[0].set_ylabel("points")
    return drawing.svg
