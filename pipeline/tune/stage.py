"""Stage tune: arms of trials on held-out NELBO, their best ones on accuracy, the best as a TOML."""

import dataclasses
import itertools
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pipeline import artifacts, prepare, search_space, storage
from pipeline.artifacts import Manifest
from pipeline.claim import claimed, require_free
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, identity
from pipeline.config_checks import check_config
from pipeline.errors import ArtifactError, ConfigError
from pipeline.layout import TRIALS_FILE, best_file, layout
from pipeline.models import start_fingerprint
from pipeline.prepare import require_prepared, verify_prepared
from pipeline.search_space import Arm, arms, configured
from pipeline.tables import TRIAL_COLUMNS, text_table, trial_rows
from pipeline.tokenizers import tokenizer_fingerprints
from pipeline.tune.records import TrialRecord, checkpoint_folder
from pipeline.tune.results import WANTED, Accuracies, finalists, write_results
from pipeline.tune.trial import Search, entropies_name

logger = logging.getLogger(__name__)

_MOST_LOOKED_AT = 100


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write ``tune/<tune.name>``, go on with it where it stopped, or say that it is done.

    Data that are not prepared yet are prepared, and entropies that some trial reads computed.
    """
    search_space.refuse_impossible(config, check_config)
    if artifacts.read_manifest(layout(config).prepared) is None:
        prepare.run(config)
    [(folder, wanted)] = outputs(config)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"tune: {folder} is already finished; --overwrite repeats it")
    else:
        if not overwrite:
            refuse_other_space(folder, wanted)
            artifacts.require_replaceable(folder)
        started = time.monotonic()
        cpus, gpus = _session(config)
        with ray_session(cpus=cpus, gpus=gpus, dashboard=True):
            require_free(folder)
            verify_prepared(config)
            if overwrite:
                artifacts.clear(folder)
            storage.write_json(storage.join(folder, artifacts.RECIPE), wanted.recipe)
            storage.write_json(storage.join(folder, WANTED), dataclasses.asdict(wanted))
            with claimed(folder):
                records = _search(config, folder)
                accuracies = _final(config, folder, records)
        write_results(config, folder, wanted, records, accuracies, time.monotonic() - started)
    rows = storage.read_table(storage.join(folder, TRIALS_FILE)).to_pylist()
    print(text_table(TRIAL_COLUMNS, trial_rows(rows)))
    print(f"tune: {len(rows)} trials -> {storage.join(folder, best_file())}")


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The search, with what its manifest must say."""
    return [(layout(config).search(config.tune.name), _wanted(config))]


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    if not config.tune.space:
        return "tune: nothing yet; [[tune.space]] names what is searched"
    search_space.refuse_impossible(config, check_config)
    tune = config.tune
    lines = [
        f"tune: arm {arm.name}, {tune.num_trials if arm.parameters else 1} trials over "
        f"{', '.join(p.key for p in arm.parameters) or 'nothing'}"
        + (f" with {', '.join(f'{k} = {v!r}' for k, v in arm.fixed.items())}" if arm.fixed else "")
        for arm in arms(config)
    ]
    return "\n".join(
        [
            *lines,
            f"each trial is trained by {config.train.num_workers} workers and measured "
            f"{tune.num_measures} times on {tune.held_out} held-out examples; the best "
            f"{tune.finalists} of each arm are evaluated on {', '.join(config.evaluate.tasks)} -> "
            f"{layout(config).search(tune.name)}",
        ]
    )


def _wanted(config: RunConfig) -> Manifest:
    prepared = require_prepared(config)
    if config.tune.held_out >= prepared.num_rows:
        raise ConfigError(
            f"tune.held_out: wanted fewer than the {prepared.num_rows} prepared examples, got "
            f"{config.tune.held_out}; lower it"
        )
    names = ("rates", "noise", "objective", "train", "lora", "reference", "tune")
    settings = {name: identity(getattr(config, name)) for name in names}
    settings["tune"].pop("name")
    policy = ("eos_policy", "tail_max", "max_length")
    settings["data"] = {name: getattr(config.data, name) for name in policy}
    if config.tune.finalists:
        evaluate = identity(config.evaluate)
        unused = ("checkpoints", "name")
        settings["evaluate"] = {k: v for k, v in evaluate.items() if k not in unused}
    inputs = {"prepared": prepared.content, "weights": start_fingerprint(config)}
    return Manifest(
        stage="tune",
        config=settings | {"run": {"seed": config.run.seed}},
        inputs=inputs | tokenizer_fingerprints(config.model),
    )


def refuse_other_space(folder: str, wanted: Manifest) -> None:
    """Raise ArtifactError where ``folder`` has a search that was begun with other settings.

    Its trials and those to come would not be of one space.
    """
    path = storage.join(folder, WANTED)
    if not storage.exists(path):
        return
    values = storage.read_json(path)
    found = Manifest(**(values | {"files": {}}))
    if found.recipe != wanted.recipe:
        raise ArtifactError(
            f"{folder}: holds a search that was begun with other settings "
            f"({artifacts.difference(found, wanted)}); set them back, use --overwrite to drop it, "
            f"or give this one another tune.name"
        )


def _parts(config: RunConfig, *, refreshes: bool) -> list[dict[str, float]]:
    """What a trial holds, each on one node: its workers, and the reference job beside them."""
    train, section = config.train, config.reference
    worker = {"CPU": train.cpus_per_worker} | ({"GPU": 1.0} if train.use_gpu else {})
    actor = {"CPU": section.num_cpus, "GPU": section.num_gpus}
    return [worker] * train.num_workers + [actor] * (section.num_actors if refreshes else 0)


def _may_refresh(config: RunConfig) -> bool:
    """Whether some trial may recompute its entropies, as far as the settings say."""
    found = {config.rates.entropies}
    for arm in arms(config):
        found.add(arm.fixed.get("rates.entropies", ""))
        found |= {v for p in arm.parameters if p.key == "rates.entropies" for v in p.values}
    return "refreshed" in found


def _will_refresh(searches: Sequence[Search]) -> bool:
    """Whether a refresh comes due in some trial; of short ones none may."""
    from pipeline.train.refresh import refresh_steps
    from pipeline.train.stage import steps_of

    return _may_refresh(searches[0].config) and any(
        refresh_steps(config, *steps_of(config))
        for search in searches
        for chosen in itertools.islice(search_space.combinations(search.arm), _MOST_LOOKED_AT)
        if (config := search.trial_config(chosen)).rates.entropies == "refreshed"
    )


def _session(config: RunConfig) -> tuple[float, float]:
    """CPUs and GPUs of a local Ray: for as many trials as the machine or the configuration has,
    and for the stages before and after them."""
    from pipeline.reference.stage import resources
    from pipeline.tune.search import TRIAL_CPUS

    parts = _parts(config, refreshes=_may_refresh(config))
    cpus, gpus = (sum(part.get(name, 0.0) for part in parts) for name in ("CPU", "GPU"))
    fitting = max(1, int((os.cpu_count() or 1) // max(cpus, 1e-9)))
    num_at_once = config.tune.max_concurrent or fitting
    evaluate = config.evaluate
    before = resources(config)
    after = (evaluate.num_actors * evaluate.num_cpus, evaluate.num_actors * evaluate.num_gpus)
    return (
        max(num_at_once * (cpus + TRIAL_CPUS), before[0], after[0]),
        max(gpus, before[1], after[1]),
    )


def _num_at_once(config: RunConfig, searches: Sequence[Search]) -> int:
    """Trials at a time on the cluster that is there; ConfigError where not one fits."""
    import ray

    from pipeline.tune.search import concurrent_trials

    parts = _parts(config, refreshes=_will_refresh(searches))
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    found = concurrent_trials(nodes, parts)
    if found < 1:
        raise ConfigError(
            f"train.num_workers: one trial wants {parts}, each on one node, and the cluster has "
            f"{ray.cluster_resources()}; lower train.num_workers or train.cpus_per_worker, or add "
            f"nodes"
        )
    return min(found, config.tune.max_concurrent or found)


def _search(config: RunConfig, folder: str) -> list[TrialRecord]:
    """The trials of all arms."""
    from pipeline.tune.search import require_measures, run_arms

    _prepare_entropies(config)
    searches = [Search(config, arm, folder) for arm in arms(config)]
    num_at_once = _num_at_once(config, searches)
    logger.info("trials_at_once=%d", num_at_once)
    started = time.monotonic()
    records = run_arms(searches, num_at_once)
    for arm in arms(config):
        own = [record for record in records if record.arm == arm.name]
        require_measures(config, arm.name, own, time.monotonic() - started)
    return records


def _prepare_entropies(config: RunConfig) -> None:
    """Compute, once for all trials, every kind of entropies that some trial reads."""
    from pipeline import reference

    done = set()
    for arm in arms(config):
        estimators = [p.values for p in arm.parameters if p.key == "reference.estimator"]
        choices: Sequence[Any] = estimators[0] if estimators else (None,)
        for choice in choices:
            extra = {} if choice is None else {"reference.estimator": choice}
            made = configured(config, {**arm.fixed, **extra})
            name = entropies_name(config, made)
            if name not in done and (_may_use_entropies(arm) or made.uses_entropies):
                done.add(name)
                reference.run(replace(made, reference=replace(made.reference, name=name)))


def _may_use_entropies(arm: Arm) -> bool:
    searched = {p.key for p in arm.parameters}
    return bool(searched & {"rates.gamma", "objective.name", "rates.entropies"})


def _final(config: RunConfig, folder: str, records: Sequence[TrialRecord]) -> Accuracies:
    """Accuracies of the finalists."""
    chosen = finalists(records, config.tune.finalists)
    if not chosen:
        return {}
    from pipeline import evaluate
    from pipeline.evaluate.metrics import METRICS_FILE

    found = {}
    for record in chosen:
        section = replace(
            config.evaluate,
            checkpoints=(checkpoint_folder(folder, record.trial),),
            name=record.trial,
            gen_lengths=config.evaluate.gen_lengths[:1],
        )
        # Theirs lie with the search: another one may have trials of the same names.
        own = replace(config, evaluate=section, run=replace(config.run, output_dir=folder))
        evaluate.run(own)
        done = layout(own).evaluation(section.name)
        tasks = storage.read_json(storage.join(done, METRICS_FILE))["tasks"]
        found[record.trial] = {task: float(values["accuracy"]) for task, values in tasks.items()}
    return found
