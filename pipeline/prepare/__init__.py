"""Stage prepare: sources -> chat template -> token ids -> Parquet shards, on Ray Data."""

from pipeline.prepare.stage import describe, outputs, require_prepared, run, verify_prepared

__all__ = ["describe", "outputs", "require_prepared", "run", "verify_prepared"]
