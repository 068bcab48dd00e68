"""Search the entropy weights: ``python jobs/tune.py --config configs/tiny_tune.toml``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("tune"))
