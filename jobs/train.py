"""Fine-tune the denoiser: ``python jobs/train.py --config configs/NAME.toml``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # pipeline is the package there

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("train"))
