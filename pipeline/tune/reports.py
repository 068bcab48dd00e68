"""From the workers of a trial's training to Ray Tune."""

import math
import time
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from pipeline.train.held_out import NELBO
from pipeline.tune.trial import PERCENT


class MeasuresToTune(TuneReportCallback):  # type: ignore[misc]
    """Passes on what was measured on the held-out examples, and nothing else."""

    def __init__(self, num_steps: int, began: float) -> None:
        """``num_steps`` are 100 percent, ``began`` is when the trial was, in seconds since 1970."""
        super().__init__()
        self.num_steps, self.began = num_steps, began

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """Ray Train's controller calls it after each report of all workers."""
        values = metrics[0]
        if NELBO not in values or values["step"] >= self.num_steps:
            return  # the last one is reported once the weights are written
        if not math.isfinite(values[NELBO]):
            return  # what it ends with will say so
        measure = {
            "step": values["step"],
            PERCENT: 100.0 * values["step"] / self.num_steps,
            NELBO: values[NELBO],
            "seconds": time.time() - self.began,
        }
        super().after_report(run_context, [measure], None)
