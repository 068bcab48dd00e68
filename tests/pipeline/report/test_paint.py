"""Painted tokens and figures."""

import numpy as np
import pytest

from pipeline.report import figures, paint


def test_colour_level_covers_the_range() -> None:
    levels = [paint.colour_level(value, 2.0) for value in (0.0, 0.124, 0.126, 1.99, 2.0, 9.0)]
    assert levels == [0, 0, 1, 15, 15, 15]
    assert paint.colour_level(0.0, 0.0) == 0


def test_paint_shows_line_breaks_and_tokens_that_were_never_unmasked() -> None:
    painted = paint.paint_order(["\n", "", "x"], [0, 1, -1], [False, False, False])
    assert "↵\n</span>" in painted
    assert ">∅</span>" in painted
    assert '<span class="t u" title="never unmasked">x</span>' in painted


def test_paint_refuses_lengths_that_differ() -> None:
    with pytest.raises(ValueError, match="zip"):
        paint.paint_entropies(["a", "b"], [1.0], [1.0], top=1.0)


def test_figures_are_the_same_each_time_and_follow_the_ink() -> None:
    values = np.array([0.0, 0.5, 0.5, 1.0])
    first = figures.entropy_histogram(values)
    assert first == figures.entropy_histogram(values)
    assert "currentColor" in first
    assert "#010203" not in first
