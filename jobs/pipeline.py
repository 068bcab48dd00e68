"""Several stages as jobs of their own: ``python jobs/pipeline.py --config configs/tiny.toml``."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)  # pipeline is the package there

from pipeline.cli import run_pipeline

if __name__ == "__main__":
    sys.exit(run_pipeline())
