"""Stage traces: questions -> samples of an autoregressive model -> those that are right."""

from pipeline.traces.stage import describe, run

__all__ = ["describe", "run"]
