"""Stage train: fine-tune a denoiser with Ray Train."""

from pipeline.train.stage import describe, outputs, run

__all__ = ["describe", "outputs", "run"]
