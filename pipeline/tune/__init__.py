"""Stage tune: a search over the objective and how it is trained."""

from pipeline.tune.stage import describe, outputs, run

__all__ = ["describe", "outputs", "run"]
