"""Stage train: fine-tune a denoiser with Ray Train."""

from pipeline.train.stage import describe, run

__all__ = ["describe", "run"]
