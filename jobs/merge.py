"""Merge a LoRA adapter into its base: ``python jobs/merge.py --merge.checkpoint NAME``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("merge"))
