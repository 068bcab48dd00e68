"""How figures of the report are drawn: SVG text, transparent, in the page's ink, the same bytes."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.figure import Figure

# Drawn in a colour that nothing else has, then replaced: so the ink follows light and dark.
INK = "#010203"
GREY = "#6e7781"
"""Ink for a file of its own: legible on a light and on a dark page."""
COLOURS = ("#0f85c9", "#e08e00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c6bb1", "#7f7f7f")
_STYLE = {
    "svg.fonttype": "none",
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
    "grid.alpha": 0.15,
    "legend.frameon": False,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class Drawing:
    """A figure while it is drawn, and its text afterwards."""

    def __init__(self, width: float, height: float) -> None:
        """``width`` and ``height`` in inches."""
        self.figure: Any = Figure(figsize=(width, height), layout="constrained")
        self.svg = Markup("")


@contextmanager
def drawing_of(name: str, label: str, width: float, height: float) -> Iterator[Drawing]:
    """A figure of ``width`` and ``height`` inches, whose text ``svg`` is there after the block.

    ``name`` is its own on the page, ``label`` what it shows, for those who cannot see it.
    """
    # The salt makes ids reproducible, and different between the figures of a page.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name}):
        drawing = Drawing(width, height)
        yield drawing
        content = io.StringIO()
        drawing.figure.savefig(content, format="svg", transparent=True, metadata=_NO_METADATA)
    drawing.svg = _for_page(content.getvalue(), label)


def _for_page(svg: str, label: str) -> Markup:
    body = svg[svg.index("<svg") :].replace(INK, "currentColor")
    body = re.sub(r' id="[a-z0-9.]+_\d+"', "", body)  # axes_1: not unique on a page
    return Markup(body.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))
