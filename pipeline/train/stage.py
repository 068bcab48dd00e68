"""Stage train, seen from the driver: check the inputs, run the workers, commit the checkpoint."""

import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline import START_TIMEOUT, START_TIMEOUT_S, artifacts, storage
from pipeline.artifacts import Manifest
from pipeline.claim import CLAIM, claimed, require_free
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, TrainSection, identity
from pipeline.errors import ArtifactError, ConfigError
from pipeline.layout import STATE_FOLDER, layout
from pipeline.models import check_context, check_trainable, start_fingerprint
from pipeline.prepare import require_prepared, verify_prepared
from pipeline.reference.stage import resources as reference_resources
from pipeline.tokenizers import check_tokenizer, tokenizer_fingerprints
from pipeline.train.job import Job, train_worker
from pipeline.train.plan import check_world_size, num_steps_of_epoch, total_steps
from pipeline.train.refresh import refresh_steps, refreshing
from pipeline.train.trackers import check_trackers
from weft.noise import NOISE_VERSION

logger = logging.getLogger(__name__)


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Train ``checkpoints/<train.name>``, continue it where it stopped, or say that it is done."""
    [(folder, wanted)] = outputs(config)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"train: {folder} is already finished; --overwrite repeats it")
        return
    if not overwrite:
        _refuse_other_state(folder, wanted.recipe)
        artifacts.require_replaceable(folder)
    check_trackers(config)
    require_free(folder)  # before Ray, which takes its time
    verify_prepared(config)
    started = time.monotonic()
    cpus, gpus = resources(config)
    # Ray Train watches its controller through the dashboard's interface.
    with ray_session(cpus=cpus, gpus=gpus, dashboard=True):
        if overwrite:
            require_free(folder)
            artifacts.clear(folder)
        facts = fit(config, folder, wanted)
    print(f"train: {facts['steps']} steps in {time.monotonic() - started:.0f} s -> {folder}")


def fit(
    config: RunConfig, folder: str, wanted: Manifest, *, callbacks: Sequence[Any] = ()
) -> dict[str, Any]:
    """Train into ``folder``, or continue there, and commit the checkpoint; its facts.

    Needs a Ray that is started. ``callbacks`` are Ray Train's. Raises ArtifactError where another
    process trains there.
    """
    started = time.monotonic()
    # Before Ray writes there, whose error would not say which setting is wrong.
    storage.write_json(storage.join(folder, artifacts.RECIPE), wanted.recipe)
    with claimed(folder):
        facts = _fit(config, folder, wanted, callbacks)
        facts["seconds"] = round(time.monotonic() - started, 1)
        names = [n for n in storage.list_files(folder) if "." in n and n != CLAIM]
        files = {name: artifacts.file_entry(storage.join(folder, name)) for name in names}
        artifacts.commit(folder, dataclasses.replace(wanted, files=files, facts=facts))
    return facts


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The checkpoint that is written, with what its manifest must say."""
    return [(layout(config).checkpoint(config.train.name), wanted_manifest(config))]


def resources(config: RunConfig) -> tuple[float, float]:
    """CPUs and GPUs that training holds, with those of the reference job beside it."""
    num_workers = config.train.num_workers
    gpus: float = num_workers if config.train.use_gpu else 0
    cpus = num_workers * config.train.cpus_per_worker
    if refresh_steps(config, *steps_of(config)):
        beside = reference_resources(config)
        cpus, gpus = cpus + beside[0], gpus + beside[1]
    return cpus, gpus


def describe(config: RunConfig) -> str:
    """Steps and a memory estimate, for ``--dry-run``."""
    from pipeline.train.estimate import count_examples, describe_training

    num_examples, origin = count_examples(config)
    _check_can_train(config, num_examples)
    return describe_training(config, num_examples, origin)


def wanted_manifest(config: RunConfig) -> Manifest:
    """What the checkpoint of ``config`` must say of itself; errors where it cannot be trained."""
    prepared = require_prepared(config)
    tokenizer = tokenizer_fingerprints(config.model)
    inputs = {"prepared": prepared.content, "weights": start_fingerprint(config)} | tokenizer
    if config.uses_entropies:
        inputs["entropies"] = _matching_entropies(config, prepared).content
    _check_can_train(config, _num_examples(config))
    sections = ("model", "rates", "noise", "objective", "train", *_adapter_sections(config))
    settings = {name: identity(getattr(config, name)) for name in sections}
    settings["model"].pop("path")  # known by its weights; where it lies may change
    if config.rates.entropies != "refreshed":
        settings["rates"] = {k: v for k, v in settings["rates"].items() if "refresh" not in k}
    if config.is_rated:
        settings["rates"]["estimator"] = config.reference.estimator
    policy = {k: getattr(config.data, k) for k in ("eos_policy", "tail_max", "max_length")}
    if config.depends_on_micro_batches:  # whose size is no mere resource then
        for name in ("micro_batch_tokens", "num_workers", "packing"):
            settings["train"][name] = getattr(config.train, name)
    settings["noise"]["version"] = NOISE_VERSION
    settings |= {"data": policy, "run": {"seed": config.run.seed}}
    return Manifest(stage="train", config=settings, inputs=inputs)


def _adapter_sections(config: RunConfig) -> tuple[str, ...]:
    return ("lora",) if config.lora.enabled else ()


def _num_examples(config: RunConfig) -> int:
    """Examples that are trained on: neither those without entropies nor those held out."""
    prepared, held_out = require_prepared(config), config.train.held_out
    if held_out >= prepared.num_rows:
        raise ConfigError(
            f"train.held_out: wanted fewer than the {prepared.num_rows} prepared examples, got "
            f"{held_out}; lower it"
        )
    if not config.uses_entropies:
        return prepared.num_rows - held_out
    folder = layout(config).entropies
    found = artifacts.require(folder, "reference", hint="run jobs/reference.py")
    num_rejected = sum(found.rejected.values())
    if num_rejected and held_out:  # some may be both
        from pipeline.train.held_out import open_split

        return len(open_split(config, uses_entropies=True)[0])
    return prepared.num_rows - num_rejected - held_out


def steps_of(config: RunConfig) -> tuple[int, int]:
    """Optimizer steps of an epoch, and of the whole run."""
    train = config.train
    per_epoch = num_steps_of_epoch(_num_examples(config), train.batch_size)
    return per_epoch, total_steps(per_epoch, train.epochs, train.max_steps)


def _check_can_train(config: RunConfig, num_examples: int) -> None:
    """Raise ConfigError where the context is too short, or the data are too few for the steps."""
    check_context(config.model.path, config.data.max_length, "data.max_length")
    check_trainable(config)
    train = config.train
    per_epoch = num_steps_of_epoch(num_examples, train.batch_size)
    num_steps = total_steps(per_epoch, train.epochs, train.max_steps)
    if train.warmup_steps >= num_steps:
        raise ConfigError(
            f"train.warmup_steps: wanted fewer than the {num_steps} optimizer steps of this run "
            f"({num_examples} examples, batches of {train.batch_size}, {train.epochs} epochs), got "
            f"{train.warmup_steps}; lower it or train.batch_size, or raise train.epochs"
        )
    check_world_size(num_examples, train.batch_size, train.num_workers)


def _matching_entropies(config: RunConfig, prepared: Manifest) -> Manifest:
    """The reference artifact, refused unless it belongs to this data, tokenizer and settings."""
    from pipeline.reference import wanted_manifest

    folder = layout(config).entropies
    found = artifacts.require(folder, "reference", hint="run jobs/reference.py")
    check_tokenizer(folder, found, tokenizer_fingerprints(config.model))
    wanted = wanted_manifest(config, prepared)
    for name, value in wanted.inputs.items():
        if found.inputs.get(name) != value:
            what = {"prepared": "other data", "weights": "another reference model"}
            raise ArtifactError(
                f"{folder}: entropies were computed for {what.get(name, name)} "
                f"({found.inputs.get(name)}, here {value}); run jobs/reference.py --overwrite"
            )
    if found.recipe != wanted.recipe:
        raise ArtifactError(
            f"{folder}: entropies were computed with other [reference] settings; "
            f"run jobs/reference.py --overwrite"
        )
    artifacts.verify_files(folder, found)
    return found


def _refuse_other_state(folder: str, recipe: str) -> None:
    others = [n for n in storage.list_files(storage.join(folder, STATE_FOLDER)) if n != recipe]
    if others:
        raise ArtifactError(
            f"{folder}: holds an unfinished run of another configuration ({', '.join(others)}, "
            f"this one is {recipe}); use --overwrite to drop it, or another train.name"
        )


def _num_workers(train: TrainSection) -> int | tuple[int, int]:
    """As Ray Train wants it: a number, or the least and the most."""
    is_elastic = 0 < train.min_workers < train.num_workers
    return (train.min_workers, train.num_workers) if is_elastic else train.num_workers


@contextlib.contextmanager
def _soon_planned_anew(train: TrainSection) -> Iterator[None]:
    """While the block runs, an elastic group waits for half a minute for its resources, not longer.

    It may be planned on a node that has just gone: Ray's list of nodes is up to 20 seconds old.
    Raised or lowered by the user, the wait stays as it is.
    """
    is_ours = os.environ[START_TIMEOUT] == START_TIMEOUT_S
    if is_ours and isinstance(_num_workers(train), tuple):
        os.environ[START_TIMEOUT] = "30"
    try:
        yield
    finally:
        if is_ours:
            os.environ[START_TIMEOUT] = START_TIMEOUT_S


def _fit(
    config: RunConfig, folder: str, wanted: Manifest, callbacks: Sequence[Any]
) -> dict[str, Any]:
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig, TrainingFailedError
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from pipeline.train.last_state import NoteLastState, explain, take_over

    train, recipe = config.train, wanted.recipe
    states = storage.join(folder, STATE_FOLDER)
    own_states = storage.join(states, recipe)
    noted = take_over(own_states)
    job = Job(config, folder, wanted, config.uses_entropies, noted)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={"job": job},
        # Parts that are kept in main memory are exchanged there.
        torch_config=TorchConfig(backend="cuda:nccl,cpu:gloo" if train.cpu_offload else None),
        scaling_config=ScalingConfig(
            num_workers=_num_workers(train),
            elastic_resize_monitor_interval_s=train.resize_every_s,
            use_gpu=train.use_gpu,
            resources_per_worker={"CPU": train.cpus_per_worker}
            | ({"GPU": 1.0} if train.use_gpu else {}),
        ),
        run_config=RayRunConfig(
            # The same name and folder make Ray Train continue from its last checkpoint.
            name=recipe,
            storage_path=states,
            failure_config=FailureConfig(max_failures=train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[NoteLastState(own_states), *callbacks],
        ),
    )
    try:
        with refreshing(config, folder, *steps_of(config)), _soon_planned_anew(train):
            facts = dict(trainer.fit().return_value)
    except SystemExit as error:  # Ray Train's own handler of Ctrl-C, with one code or another
        raise KeyboardInterrupt from error
    except TrainingFailedError as error:
        explained = explain(error, own_states)
        if explained is None:
            raise
        raise explained from error
    if "error" in facts:
        raise facts["error"]
    if noted is not None:
        storage.remove(noted)  # Ray does not know of it
    return facts
