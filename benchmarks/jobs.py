"""Jobs that the benchmarks run as a user would: the embedded denoiser on generated puzzles."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.config import (
    DataSection,
    RatesSection,
    RunConfig,
    RunSection,
    SourceSection,
    TrainSection,
)
from pipeline.config_file import format_config

_JOBS = Path(__file__).resolve().parent.parent / "jobs"


def job_command(stage: str, config: Path, *arguments: str) -> list[str]:
    """What starts ``stage`` with the configuration file ``config``."""
    return [sys.executable, str(_JOBS / f"{stage}.py"), "--config", str(config), *arguments]


def wait_for_state(checkpoint: Path, process: "subprocess.Popen[Any]") -> None:
    """Until the training in the folder ``checkpoint`` has saved a state; it must not end before."""
    while not list(checkpoint.glob("state/*/last_state.json")):
        if process.poll() is not None:
            raise SystemExit("the training ended before a state; run it by itself to see why")
        time.sleep(0.01)


def prepare_puzzles(
    folder: Path, *, num_puzzles: int = 640, num_shards: int = 2, **train: Any
) -> Path:
    """Prepare puzzles in ``folder`` for SFT with these ``[train]`` keys; the configuration."""
    config = RunConfig(
        run=RunSection(output_dir=str(folder)),
        data=DataSection(
            sources=(SourceSection(kind="task", task="sudoku", count=num_puzzles),),
            num_shards=num_shards,
        ),
        rates=RatesSection(gamma=0.0),
        train=TrainSection(batch_size=16, warmup_steps=1, cpus_per_worker=1.0, **train),
    )
    path = folder / "config.toml"
    path.write_text(format_config(config))
    subprocess.run(job_command("prepare", path), check=True, capture_output=True)
    return path
