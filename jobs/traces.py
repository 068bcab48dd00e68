"""Generate traces with an autoregressive model: ``python jobs/traces.py --traces.model PATH``."""

import sys

from pipeline.cli import run_job

if __name__ == "__main__":
    sys.exit(run_job("traces"))
