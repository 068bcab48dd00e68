"""One trial: a training by Ray Train inside of a Ray Tune trial.

Runs in a process of its own, which Ray Tune starts.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any

from pipeline import artifacts
from pipeline.config import RunConfig, identity
from pipeline.errors import ArtifactError, PipelineError
from pipeline.search_space import Arm, configured
from pipeline.train.held_out import NELBO
from pipeline.tune.records import checkpoint_folder, trial_name

PERCENT = "percent"
"""Share of a trial's steps that are done, from 0 to 100: what rungs are counted in."""
_POLL_S = 2.0


@dataclass(frozen=True)
class Search:
    """What all trials of an arm share."""

    config: RunConfig
    arm: Arm
    folder: str
    """Of the whole search."""

    def trial_config(self, params: dict[str, Any]) -> RunConfig:
        """The configuration that a trial trains, but for how often it is measured."""
        config = configured(self.config, {**self.arm.fixed, **params})
        train = replace(
            config.train,
            name=trial_name(self.arm.name, params),
            held_out=config.tune.held_out,
            held_out_draws=config.tune.held_out_draws,
        )
        name = entropies_name(self.config, config)
        return replace(config, train=train, reference=replace(config.reference, name=name))


def entropies_name(base: RunConfig, config: RunConfig) -> str:
    """Folder of the entropies that ``config`` reads: the run's own, or those of its estimator."""
    if identity(config.reference) == identity(base.reference):
        return base.reference.name
    return f"{base.reference.name}-{config.reference.estimator}"


def run_trial(params: dict[str, Any], *, search: Search) -> None:
    """Train with ``params``, from where an earlier try stopped, and report what is measured.

    Raises PipelineError where it cannot be trained, or its training diverged.
    """
    import ray.tune

    from pipeline.train.stage import fit, steps_of, wanted_manifest
    from pipeline.tune.reports import MeasuresToTune

    config = search.trial_config(params)
    folder = checkpoint_folder(search.folder, config.train.name)
    num_steps = steps_of(config)[1]
    every = math.ceil(num_steps / config.tune.num_measures)
    # A trial that is killed goes on from its last measure.
    saves = min(config.train.checkpoint_every, every)
    train = replace(
        config.train,
        held_out_every=every,
        checkpoint_every=saves,
        min_workers=0,  # as many as it was given room for
    )
    config = replace(config, train=train)
    wanted = wanted_manifest(config)
    began = time.time()
    _wait_for_others(folder)
    if not artifacts.is_done(folder, wanted, overwrite=False):
        fit(config, folder, wanted, callbacks=[MeasuresToTune(num_steps, began)])
    manifest = artifacts.require(folder, "train", hint="")
    if not math.isfinite(manifest.facts[NELBO]):
        raise PipelineError(f"{NELBO} is {manifest.facts[NELBO]}: training diverged")
    ray.tune.report(
        {
            "step": float(num_steps),
            PERCENT: 100.0,
            NELBO: manifest.facts[NELBO],
            "seconds": time.time() - began,
            "training_began": manifest.facts["training_began"],
        }
    )


def _wait_for_others(folder: str) -> None:
    """A trial with the same parameters may train there; its result is this one's as well."""
    from pipeline.claim import require_free

    while True:
        try:
            require_free(folder)
            return
        except ArtifactError:
            time.sleep(_POLL_S)
