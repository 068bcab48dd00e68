"""Stage reference: predictive entropies of a frozen reference model, on Ray Data actors."""

from pipeline.reference.stage import describe, outputs, run, wanted_manifest

__all__ = ["describe", "outputs", "run", "wanted_manifest"]
