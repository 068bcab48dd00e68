"""Stage evaluate: prompts -> decoding -> grades -> accuracies, on Ray Data actors."""

from pipeline.evaluate.stage import describe, run

__all__ = ["describe", "run"]
