"""Entropies recomputed beside the training, and used from a step that the plan fixes.

The trainer keeps its weights after certain steps; a reference job on resources of its own computes
their entropies; ``refresh_lag`` epochs or steps after those weights the trainer switches to them.
It waits where they are not ready, and never switches sooner: a run is reproducible, whatever its
reference job takes.
"""

import contextlib
import dataclasses
import functools
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline import artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.config import RatesSection, RunConfig
from pipeline.errors import CheckpointError, PipelineError
from pipeline.layout import layout
from pipeline.train.data import TrainingData, cache_folder, load_training_data

logger = logging.getLogger(__name__)

_REFRESH, _FAILED = "refresh", "failed.json"
_POLL_S = 1.0
_TELL_EVERY_S = 30.0


def steps_seen(rates: RatesSection, step: int, steps_per_epoch: int) -> int:
    """After how many steps the weights were kept whose entropies come next; 0: the base's.

    ``step`` counts the steps that are done.
    """
    if rates.entropies != "refreshed":
        return 0
    unit = steps_per_epoch if rates.refresh_unit == "epochs" else 1
    last = max(0, step - rates.refresh_lag * unit)
    return last - last % (rates.refresh_every * unit)


def refresh_steps(config: RunConfig, steps_per_epoch: int, num_steps: int) -> list[int]:
    """The steps after which the weights are kept for a refresh that a run of ``num_steps`` uses."""
    return list(_all_seen(config.rates, steps_per_epoch, num_steps))


@functools.lru_cache(maxsize=8)
def _all_seen(rates: RatesSection, steps_per_epoch: int, num_steps: int) -> tuple[int, ...]:
    seen = {steps_seen(rates, step, steps_per_epoch) for step in range(num_steps)}
    return tuple(sorted(seen - {0}))


def refresh_folder(checkpoint: str, step: int) -> str:
    """Where the entropies of the weights after ``step`` lie."""
    return storage.join(checkpoint, _REFRESH, f"after-step-{step:07d}")


class RefreshedData:
    """The training data of each step: the same examples, with the entropies that are due."""

    def __init__(
        self, config: RunConfig, checkpoint: str, first: TrainingData, steps_per_epoch: int
    ) -> None:
        """``first`` has the entropies of the base model."""
        self.config, self.checkpoint = config, checkpoint
        self.steps_per_epoch = steps_per_epoch
        self.rows = first.rows
        self.cached: list[Path] = []
        self.loaded = {0: first}

    def changes_at(self, step: int) -> bool:
        """Whether the step after ``step`` has other data than the one before."""
        seen = [steps_seen(self.config.rates, s, self.steps_per_epoch) for s in (step - 1, step)]
        return seen[0] != seen[1]

    def __call__(self, step: int) -> TrainingData:
        """The data of the step after ``step``; waits for a reference job that is not ready.

        Raises CheckpointError when it failed.
        """
        seen = steps_seen(self.config.rates, step, self.steps_per_epoch)
        if seen not in self.loaded:
            folder = refresh_folder(self.checkpoint, seen)
            self.loaded = {seen: self._load(folder, step)}
            self._drop_cache(folder)
        return self.loaded[seen]

    def _drop_cache(self, folder: str) -> None:
        """Remove the node's copy of the refresh before; who still has it mapped keeps it."""
        for cached in self.cached:
            shutil.rmtree(cached, ignore_errors=True)
        self.cached = [cache_folder(artifacts.require(folder, "reference", hint=""))]

    def _load(self, folder: str, step: int) -> TrainingData:
        manifest = _wait_for(self.checkpoint, folder, step)
        prepared_folder = layout(self.config).prepared
        prepared = artifacts.require(prepared_folder, "prepare", hint="run jobs/prepare.py")
        logger.info("step=%d entropies=%s", step, folder)
        data = load_training_data(prepared_folder, prepared, folder, manifest)
        return self._same_examples(data, folder)

    def _same_examples(self, data: TrainingData, folder: str) -> TrainingData:
        """``data`` with the examples that the first epoch had: the plan is of these."""
        assert self.rows is not None
        assert data.rows is not None
        places = np.searchsorted(data.rows, self.rows)
        found = np.append(data.rows, -1)[places]
        if (found != self.rows).any():
            raise CheckpointError(
                f"{folder}: wanted finite entropies of every example that is trained on, got "
                f"others for {int((found != self.rows).sum())}; training diverged, or "
                f"reference.precision is too low"
            )
        ids = [data.example_ids[place] for place in places]
        return dataclasses.replace(
            data, rows=self.rows, example_ids=ids, lengths=data.lengths[places]
        )


def _wait_for(checkpoint: str, folder: str, step: int) -> Manifest:
    started = told = time.monotonic()
    while (manifest := artifacts.read_manifest(folder)) is None:
        failure = storage.join(checkpoint, _REFRESH, _FAILED)
        if storage.exists(failure):
            raise CheckpointError(
                f"the refresh of the entropies failed: {storage.read_json(failure)}"
            )
        if time.monotonic() - told >= _TELL_EVERY_S:
            told = time.monotonic()
            logger.info("waiting seconds=%.0f step=%d for=%s", told - started, step, folder)
        time.sleep(_POLL_S)
    return manifest


@contextlib.contextmanager
def refreshing(
    config: RunConfig, checkpoint: str, steps_per_epoch: int, num_steps: int
) -> Iterator[None]:
    """While the block trains ``checkpoint``, compute the entropies of the weights that it keeps.

    Needs a Ray that is started. Nothing is done where the configuration asks for no refresh.
    """
    due = refresh_steps(config, steps_per_epoch, num_steps)
    if not due:
        yield
        return
    storage.remove(storage.join(checkpoint, _REFRESH, _FAILED))
    stopped = threading.Event()
    thread = threading.Thread(
        target=_compute_all, args=(config, checkpoint, due, stopped), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(timeout=2 * _POLL_S)


def _compute_all(
    config: RunConfig, checkpoint: str, steps: list[int], stopped: threading.Event
) -> None:
    """The refreshes in turn, each once its weights are there; a failure is left as a note."""
    from pipeline.train.exports import export_folder

    try:
        for step in steps:
            weights = export_folder(checkpoint, step)
            while artifacts.read_manifest(weights) is None:
                if stopped.wait(_POLL_S):
                    return
            _compute(config, weights, refresh_folder(checkpoint, step))
    except Exception as error:
        if not stopped.is_set():  # else Ray has ended under it
            logger.exception("refresh failed checkpoint=%s", checkpoint)
            _note_failure(checkpoint, error, stopped)


def _note_failure(checkpoint: str, error: Exception, stopped: threading.Event) -> None:
    """Tell the trainer, which would wait for ever; as often as it takes."""
    what = str(error) if isinstance(error, PipelineError) else repr(error)
    while not stopped.is_set():
        try:
            storage.write_json(storage.join(checkpoint, _REFRESH, _FAILED), what)
            return
        except PipelineError:
            logger.exception("tried again: the note of a failed refresh")
            stopped.wait(_TELL_EVERY_S)


def _compute(config: RunConfig, weights: str, folder: str) -> None:
    from pipeline.prepare import require_prepared
    from pipeline.reference import wanted_manifest
    from pipeline.reference.compute import EntropyJob, compute

    reference = dataclasses.replace(config.reference, checkpoint=weights)
    own = dataclasses.replace(config, reference=reference)
    prepared = require_prepared(own)
    wanted = wanted_manifest(own, prepared)
    if not artifacts.is_done(folder, wanted, overwrite=False):
        compute(EntropyJob(own, weights, folder), wanted, prepared)
