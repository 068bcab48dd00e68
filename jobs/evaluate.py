"""Decode and grade the tasks: ``python jobs/evaluate.py --config configs/NAME.toml``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("evaluate"))
