"""Stage report: everything in the folders of some runs -> one HTML page that needs nothing else."""

from pipeline.report.stage import describe, run

__all__ = ["describe", "run"]
