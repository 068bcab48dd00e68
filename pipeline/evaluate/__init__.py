"""Stage evaluate: prompts -> decoding -> grades -> accuracies, on Ray Data actors."""

from pipeline.evaluate.stage import describe, outputs, run

__all__ = ["describe", "outputs", "run"]
