"""How far a long piece of work has come: a bar on a terminal, else a log line now and then."""

import logging
import sys
import time
from types import TracebackType
from typing import Any

logger = logging.getLogger(__name__)

_EVERY_S = 15.0


class Progress:
    """Counts what is done, and says the rate and when the rest will be done at that rate."""

    def __init__(self, what: str, unit: str, total: int) -> None:
        """``total`` units of ``what`` are to be done."""
        self.what, self.unit, self.total = what, unit, total
        self.done = 0
        self.rate = 0.0
        """Units per second so far."""
        self.note = ""
        """Further facts, shown behind."""
        self.started = self.told = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> "Progress":
        """Start the clock."""
        self.started = self.told = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=self.total, desc=self.what, unit=f" {self.unit}", unit_scale=True
            )
        return self

    def add(self, count: int) -> None:
        """``count`` more units are done."""
        self.done += count
        now = time.monotonic()
        self.rate = self.done / max(now - self.started, 1e-9)
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(count)
        elif now - self.told >= _EVERY_S:
            self.told = now
            logger.info("%s", self)

    def __str__(self) -> str:
        """What is done, the rate, and the estimate of the end."""
        left = (self.total - self.done) / self.rate if self.rate else float("nan")
        return (
            f"progress stage={self.what} {self.unit}={self.done} of={self.total} "
            f"{self.unit}_per_second={self.rate:.3g} seconds_left={left:.0f} {self.note}"
        ).rstrip()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop."""
        if self._bar is not None:
            self._bar.close()
