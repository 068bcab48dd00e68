"""Stage prepare: sources -> chat template -> token ids -> Parquet shards, on Ray Data."""

from pipeline.prepare.stage import describe, require_prepared, run

__all__ = ["describe", "require_prepared", "run"]
