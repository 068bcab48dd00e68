"""The pipeline as a table: of its steps what they do, since when, and what they last said."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.graph.schedule import UNDER_WAY, Progress, Schedule
from pipeline.graph.steps import Step

_COLOURS = {
    "pending": "yellow",
    "running": "yellow",
    "finished": "green",
    "skipped": "green",
    "failed": "red",
    "stopped": "red",
    "blocked": "red",
}
_REFRESHES_A_SECOND = 2


@contextmanager
def shown(schedule: Schedule, last_line: Callable[[Step], str]) -> Iterator[Callable[[], None]]:
    """Keep the table on the screen while the block runs; call what it yields after each change.

    Where the output is no terminal, a change is one line.
    """
    if not sys.stdout.isatty():
        yield _printer(schedule)
        return
    from rich.live import Live

    with Live(
        get_renderable=lambda: table(schedule, last_line),
        refresh_per_second=_REFRESHES_A_SECOND,
    ):
        yield lambda: None


def _printer(schedule: Schedule) -> Callable[[], None]:
    said: dict[str, str] = {}

    def say() -> None:
        for name, one in schedule.progress.items():
            if one.status != "waiting" and said.get(name) != one.status:
                said[name] = one.status
                print("  ".join(filter(None, _cells(one))), flush=True)

    return say


def table(schedule: Schedule, last_line: Callable[[Step], str]) -> Any:
    """A row a step."""
    from rich.table import Table
    from rich.text import Text

    found = Table(box=None, header_style="bold", expand=True)
    for column in ("job", "status", "time"):
        found.add_column(column, no_wrap=True)
    found.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for one in schedule.progress.values():
        name, status, seconds, note = _cells(one)
        said = last_line(one.step) if one.status in UNDER_WAY else note
        colour = _COLOURS.get(one.status, "")
        found.add_row(name, Text(status, style=colour), seconds, Text(said))
    return found


def _cells(one: Progress) -> tuple[str, str, str, str]:
    seconds = one.seconds()
    return one.step.name, one.status, "" if seconds is None else _duration(seconds), one.note


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
