"""Stage tune: a search over the objective and how it is trained."""

from pipeline.tune.stage import describe, run

__all__ = ["describe", "run"]
