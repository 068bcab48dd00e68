"""Measure how training moves the entropies: ``python jobs/drift.py --drift.checkpoint NAME``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("drift"))
