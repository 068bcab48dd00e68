"""Run a study to its end, or go on with it: ``python -m studies.run studies/tiny``.

Everything is an artifact of some stage, so a study that is started again does only what is missing;
what is in its ``results`` already is not done again either, wherever it was made.
"""

import logging
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq
import tyro

from pipeline import artifacts, drift, evaluate, prepare, reference, storage, train, tune
from pipeline.cluster import ray_session
from pipeline.config import RunConfig
from pipeline.errors import PipelineError
from pipeline.layout import TRIALS_FILE, layout, with_absolute_paths
from pipeline.report.data import open_reader, read_entropies, read_run
from pipeline.report.token_views import top_tokens
from pipeline.train.exports import export_folder, exported_steps
from pipeline.train.stage import steps_of
from studies.plan import BASE, GENERATED, REAL, Run, Study, load_study
from studies.results import Results, searches, with_choices

logger = logging.getLogger("studies")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the study is run."""

    study: tyro.conf.Positional[Path]
    """Folder with study.toml and methods.toml."""
    data_dir: Path = Path("../shared/data/benchmarks")
    """Folder with the published items of d1."""
    minutes: float = 0.0
    """Start nothing new after so many; 0: go on to the end."""


class OutOfTimeError(Exception):
    """The minutes are over; started again, the study goes on."""


def main(settings: Settings) -> None:
    """See the module."""
    study = load_study(settings.study)
    study = replace(study, base=with_absolute_paths(study.base))
    results = Results(settings.study / "results")
    deadline = time.monotonic() + 60 * settings.minutes if settings.minutes else math.inf

    def step(what: str, work: Callable[[], None]) -> None:
        if time.monotonic() > deadline:
            raise OutOfTimeError
        started = time.monotonic()
        print(f"study: {what}", flush=True)
        work()
        results.add_time(what, time.monotonic() - started)

    with ray_session(cpus=3.0, dashboard=True):
        prepare_inputs(study, step)
        list_tokens(study, results)
        study = choose(study, results, step)
        data_dir = str(settings.data_dir.resolve())
        evaluate_base(study, results, data_dir, step)
        runs = list(study.runs())
        for number, run in enumerate(runs):
            config = study.config_of(run)
            if not results.has(run, config):
                step(
                    f"{run.name} of {run.size} traces ({number + 1} of {len(runs)})",
                    lambda run=run, config=config: one_run(study, run, config, results, data_dir),
                )
        measure_drift(study, results, step)


def prepare_inputs(study: Study, step: Callable[..., None]) -> None:
    """The data of every size, and every kind of entropies that a method reads."""
    for size in sorted({run.size for run in study.runs()}):
        step(f"data of {size} traces", lambda size=size: prepare.run(study.at(size)))
    done = set()
    for run in study.runs():
        config = study.config_of(run)
        key = (run.size, config.reference.name)
        if config.uses_entropies and key not in done:
            done.add(key)
            step(f"{key[1]} of {run.size} traces", lambda config=config: reference.run(config))


def list_tokens(study: Study, results: Results) -> None:
    """The tokens that the base model is most and least certain of."""
    config = study.at(study.plan.base_size)
    data, reader = read_run(config), open_reader(config.model)
    sample = read_entropies(config, data)
    if not isinstance(sample, str):
        results.add_tokens(top_tokens(sample, reader), top_tokens(sample, reader, highest=False))


def choose(study: Study, results: Results, step: Callable[..., None]) -> Study:
    """The study with what its searches choose, which are run where they are missing."""
    for name, config in searches(study).items():
        if results.search(name, config) is None:
            step(f"search {name}", lambda config=config: tune.run(config))
            folder = layout(config).search(config.tune.name)
            rows = pq.read_table(storage.join(folder, TRIALS_FILE)).to_pylist()
            results.add_search(name, config, rows)
    return with_choices(study, results)


def one_run(study: Study, run: Run, config: RunConfig, results: Results, data_dir: str) -> None:
    """Train, evaluate on both sets of items, and keep what came out."""
    follows = run.seed == 0 and run.size == study.plan.base_size
    if follows:
        every = math.ceil(steps_of(config)[1] / study.plan.checkpoints)
        config = replace(config, train=replace(config.train, export_every=every))
    train.run(config)
    folder = layout(config).checkpoint(run.name)
    manifest = artifacts.require(folder, "train", hint="")
    history = storage.read_bytes(storage.join(folder, "metrics.jsonl")).decode()
    results.add_run(run, config, manifest, history)
    for items, evaluation in evaluate_both(config, run.name, run.name, data_dir):
        results.add_evaluation(run, items, evaluation)
    if follows:
        every, last = config.train.export_every, manifest.facts["steps"]
        kept = [step for step in exported_steps(folder) if step % every == 0]
        for step in (*kept, last):
            path = folder if step == last else export_folder(folder, step)
            name = f"{run.name}-step-{step}"
            section = replace(
                config.evaluate,
                checkpoints=(path,),
                name=name,
                num_items=study.plan.checkpoint_items,
                skip_items=0,
            )
            evaluate.run(replace(config, evaluate=section))
            results.add_evaluation(run, f"step-{step}", layout(config).evaluation(name))
    results.finish(run, config)


def evaluate_both(
    config: RunConfig, checkpoint: str, name: str, data_dir: str
) -> list[tuple[str, str]]:
    """Names of the sets of items, and the folders of the evaluations on them."""
    found = []
    for items, extra in ((GENERATED, {}), (REAL, {"data_dir": data_dir})):
        own = f"{name}-{items}"
        section = replace(config.evaluate, checkpoints=(checkpoint,), name=own, **extra)
        evaluate.run(replace(config, evaluate=section))
        found.append((items, layout(config).evaluation(own)))
    return found


def evaluate_base(study: Study, results: Results, data_dir: str, step: Callable[..., None]) -> None:
    """The base model, before any training."""
    run, config = study.base_run(), study.at(study.plan.base_size)
    if results.has(run, config):
        return

    def work() -> None:
        for items, folder in evaluate_both(config, BASE, BASE, data_dir):
            results.add_evaluation(run, items, folder)
        results.finish(run, config)

    step("the base model", work)


def measure_drift(study: Study, results: Results, step: Callable[..., None]) -> None:
    """How far the entropies move under WeFT's first seed."""
    run = study.drift_run()
    trained = study.config_of(run)
    if results.drift(trained) is not None:
        return
    config = replace(trained, drift=replace(trained.drift, checkpoint=run.name))
    step("drift of the entropies", lambda: drift.run(config))
    results.add_drift(trained, layout(config).drift(run.name))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    logging.getLogger("pipeline").setLevel(logging.INFO)
    try:
        main(tyro.cli(Settings, description=__doc__))
    except OutOfTimeError:
        print("study: the minutes are over; start it again to go on")
    except PipelineError as error:
        sys.exit(f"error: {error}")
