"""Fine-tune the denoiser: ``python jobs/train.py --config configs/NAME.toml``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("train"))
