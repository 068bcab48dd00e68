"""The evaluation job over numbers of actors: ``python -m benchmarks.evaluate``.

Items per second of ``jobs/evaluate.py`` with one and with two actors of one CPU each, on the
embedded denoiser. Each rate is that of the items which a long job has more than a short one, over
the seconds that it takes longer: starting Ray and loading the model are in neither.
``two_over_one`` is the quotient of the two rates.
"""

import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.jobs import job_command
from benchmarks.measure import print_results

_TASKS = 2


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes of the problem."""

    items: int = 160
    """Of each of Sudoku and Countdown, in the long job."""
    few_items: int = 32
    """In the short one."""
    rounds: int = 1


def seconds_of(folder: Path, *, num_actors: int, num_items: int) -> float:
    """Wall-clock time of one evaluation."""
    command = job_command(
        "evaluate",
        Path("configs/tiny.toml"),
        *("--run.output-dir", str(folder)),
        *("--evaluate.name", f"{num_actors}-{num_items}"),
        *("--evaluate.num-items", str(num_items)),
        *("--evaluate.num-actors", str(num_actors)),
        *("--evaluate.batch-size", "16"),
        "--overwrite",
    )
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def main(settings: Settings) -> None:
    """Run all jobs in turns and print the rates."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    more = _TASKS * (settings.items - settings.few_items)
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(settings.rounds):
            for num_actors, found in rates.items():
                long, short = (
                    seconds_of(Path(folder), num_actors=num_actors, num_items=count)
                    for count in (settings.items, settings.few_items)
                )
                found.append(more / (long - short))
    one, two = (statistics.median(found) for found in rates.values())
    print(f"items per second: {one:.2f} with one actor, {two:.2f} with two")
    print_results(items_per_second=two, two_over_one=two / one)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
