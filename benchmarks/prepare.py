"""Speed and memory of prepare over a large file: ``python -m benchmarks.prepare``.

Writes a file of traces, runs the job on it as a user would, and watches its processes. The last
line has ``rows_per_second`` (start-up and the end included), ``peak_gib`` (all processes together,
shared pages counted once) and ``peak_process_gib`` (the largest one).
"""

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import tyro

from benchmarks.jobs import job_command
from benchmarks.measure import print_results
from pipeline.config import DataSection, RunConfig, RunSection, SourceSection
from pipeline.config_file import format_config
from pipeline.sizes import size_text

_SAMPLE_EVERY_S = 0.5
_MAX_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    rows: int = 200_000
    characters: int = 450
    """Of a trace, about."""
    shards: int = 64
    near_duplicates: float = 0.0
    """As ``data.near_duplicates``; 0 leaves them out."""


def write_traces(path: Path, num_rows: int, num_characters: int) -> None:
    """A file of sums that are worked out step by step, each about ``num_characters`` long."""
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            terms = rng.integers(1, 1000, size=max(2, num_characters // 26))
            totals = np.cumsum(terms)
            steps = [f"{a} and {b} make {a + b}." for a, b in zip(totals, terms[1:], strict=False)]
            row = {
                "question": f"What is the sum of the {len(terms)} numbers of list {number}?",
                "reasoning": " ".join(steps),
                "answer": str(totals[-1]),
            }
            file.write(json.dumps(row) + "\n")


def configuration(folder: Path, traces: Path, settings: Settings) -> Path:
    """The file of a run over ``traces`` with every filter that the data pass."""
    source = SourceSection(
        kind="files",
        path=str(traces),
        prompt_column="question",
        reasoning_column="reasoning",
        response_column="answer",
    )
    data = DataSection(
        sources=(source,),
        max_length=_MAX_LENGTH,
        num_shards=settings.shards,
        languages=("en",),
        near_duplicates=settings.near_duplicates,
    )
    config = RunConfig(run=RunSection(output_dir=str(folder / "run")), data=data)
    path = folder / "config.toml"
    path.write_text(format_config(config))
    return path


def watch(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Bytes at the peak: of all processes of the job, and of the largest one."""
    together = largest = 0
    while process.poll() is None:
        sizes = [_proportional_bytes(p) for p in psutil.Process(process.pid).children(True)]
        sizes.append(_proportional_bytes(psutil.Process(process.pid)))
        together, largest = max(together, sum(sizes)), max(largest, *sizes)
        time.sleep(_SAMPLE_EVERY_S)
    return together, largest


def _proportional_bytes(process: psutil.Process) -> int:
    """Its memory, of what is shared its part; 0 once it has ended."""
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def main() -> None:
    """Parse the command line and measure."""
    settings = tyro.cli(Settings, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        traces = folder / "traces.jsonl"
        write_traces(traces, settings.rows, settings.characters)
        print(f"{settings.rows} rows, {size_text(traces.stat().st_size)}")
        config = configuration(folder, traces, settings)
        started = time.perf_counter()
        process = subprocess.Popen(job_command("prepare", config), text=True)
        together, largest = watch(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise SystemExit(process.returncode)
        card = json.loads((folder / "run" / "prepared" / "card.json").read_text())
        print(json.dumps(card["sources"]))
    print_results(
        rows_per_second=settings.rows / seconds,
        peak_gib=together / 2**30,
        peak_process_gib=largest / 2**30,
    )


if __name__ == "__main__":
    main()
