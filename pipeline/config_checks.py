"""What a configuration must satisfy beyond its types: ranges, and combinations that can run."""

import contextlib
import dataclasses
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline import protocols, search_space
from pipeline.config import (
    EvaluateSection,
    PipelineSection,
    RunConfig,
    SourceSection,
    TracesSection,
    TrainSection,
)
from pipeline.errors import ConfigError
from weft.method_config import RATED
from weft.suggest import did_you_mean
from weft.tasks import CODE_NAMES, PUZZLE_NAMES, TASK_NAMES

_CREDENTIALS = re.compile(r"://[^/@\s]*:[^@\s]*@|(?<=https)://[^/@\s]+@|(?<=http)://[^/@\s]+@")
_SIGNED = re.compile(
    r"(?i)[?&](x-amz-signature|x-amz-security-token|x-goog-signature|signature|sig|password"
    r"|(?:access_|private_|auth_)?token|(?:api|access)_?key)=[^&\s]+"
)
_SECRET_NAME = re.compile(
    r"(?i)(?:password|passwd|secret|token|api_?key|access_key_id|connection_string|credentials?"
    r"|(?:^|[._-])(?:key|pat))$"
)
_NO_SECRET = re.compile(r"(?i)[/~<]|(?:[01]|true|false|yes|no|on|off)$")
"""How a path begins, or the name of a special token; or a switch."""
_COLUMNS = ("prompt_column", "response_column", "reasoning_column")
_OF_THE_HUB = ("subset", "split", "revision", "streaming")
_OF_TEXTS = ("path", *_OF_THE_HUB, "format", *_COLUMNS, "correct_column", "solution_column")
_KEYS_OF_OTHER_KINDS = {
    "task": _OF_TEXTS,
    "pretraining": ("task", *_OF_TEXTS),
    "files": ("task", "count", *_OF_THE_HUB),
    "hub": ("task", "count"),
}


def check_config(config: RunConfig) -> None:
    """Raise ConfigError naming every impossible value or combination of ``config``, one a line."""
    problems = [*_out_of_range(config), *_impossible(config)]
    problems += [*_sources(config.data.sources), *_evaluate(config.evaluate)]
    problems += [*_traces(config.traces), *_tune(config), *_jobs(config.pipeline)]
    problems += _secrets("", config)
    if problems:
        raise ConfigError("\n".join(problems))


def _secrets(where: str, value: Any) -> Iterator[str]:
    """Addresses that give access to whoever reads them, as manifests and logs would have them."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            own = f"{where}.{field.name}" if where else field.name
            yield from _secrets(own, getattr(value, field.name))
    elif isinstance(value, tuple):
        for number, one in enumerate(value):
            yield from _secrets(f"{where}[{number}]", one)
    elif isinstance(value, str) and (_CREDENTIALS.search(value) or _SIGNED.search(value)):
        shown = _SIGNED.sub("?***", _CREDENTIALS.sub("://***@", value))
        yield (
            f"{where}: wanted an address without credentials, got {shown}; give these to the "
            f"processes by environment variables or a role"
        )


def _wanted(key: str, wanted: str, got: object) -> str:
    return f"{key}: wanted {wanted}, got {got!r}"


def _out_of_range(config: RunConfig) -> Iterator[str]:
    at_least_one = (
        "data.max_length data.num_shards reference.num_levels reference.batch_tokens "
        "reference.top_logprobs "
        "reference.head_chunk_mib reference.num_actors train.epochs train.batch_size "
        "train.micro_batch_tokens train.num_workers train.checkpoint_every train.log_every "
        "lora.rank lora.alpha rates.refresh_every train.held_out_draws tune.num_trials "
        "tune.held_out tune.held_out_draws tune.num_measures "
        "drift.num_examples traces.num_samples "
        "traces.max_tokens traces.max_model_len traces.keep traces.num_shards traces.batch_size "
        "traces.num_actors "
        "train.head_chunk_mib evaluate.batch_size evaluate.num_actors evaluate.num_items"
    )
    not_negative = (
        "data.min_response_tokens data.tail_max reference.tail reference.max_rejected "
        "train.max_steps train.warmup_steps train.weight_decay "
        "train.max_grad_norm train.max_failures train.max_skipped_steps train.device_memory_gib "
        "evaluate.benchmark_items evaluate.skip_items evaluate.block_length evaluate.steps "
        "rates.gamma rates.rate_min reference.num_gpus evaluate.num_gpus "
        "report.num_examples report.num_failures rates.refresh_lag train.export_every "
        "train.min_workers train.held_out train.held_out_every tune.finalists tune.max_concurrent "
        "tune.time_budget_s pipeline.max_parallel "
        "traces.temperature traces.num_gpus"
    )
    positive = (
        "train.learning_rate train.muon_learning_rate train.resize_every_s rates.rate_max "
        "data.num_cpus reference.num_cpus train.cpus_per_worker evaluate.num_cpus traces.num_cpus"
    )
    fraction = "train.beta1 train.beta2 lora.dropout"
    for key in at_least_one.split():
        if _value(config, key) < 1:
            yield _wanted(key, "at least 1", _value(config, key))
    for key in not_negative.split():
        if not 0 <= _value(config, key) < math.inf:
            yield _wanted(key, "a finite number not below 0", _value(config, key))
    for key in positive.split():
        if not 0 < _value(config, key) < math.inf:
            yield _wanted(key, "a finite positive number", _value(config, key))
    for key in ("run.seed", "data.seed", "evaluate.seed", "traces.seed", "tune.seed"):
        if not 0 <= _value(config, key) < 2**63:
            yield _wanted(key, "an integer in [0, 2**63)", _value(config, key))
    for key in ("data.max_overlap", "data.near_duplicates"):
        if not 0 <= _value(config, key) <= 1:
            yield _wanted(key, "a number in [0, 1]", _value(config, key))
    for key in fraction.split():
        if not 0 <= _value(config, key) < 1:
            yield _wanted(key, "a number in [0, 1)", _value(config, key))


def _value(config: RunConfig, key: str) -> float:
    section, name = key.split(".")
    value: float = getattr(getattr(config, section), name)
    return value


def _text(config: RunConfig, key: str) -> str:
    section, name = key.split(".")
    return str(getattr(getattr(config, section), name))


def _impossible(config: RunConfig) -> Iterator[str]:
    rates, train = config.rates, config.train
    if not 0 < config.noise.eps < 1:
        yield _wanted("noise.eps", "a number in (0, 1)", config.noise.eps)
    if not rates.rate_min <= 1 <= rates.rate_max:
        yield _wanted(
            "rates.rate_min and rates.rate_max",
            "rate_min <= 1 <= rate_max",
            (rates.rate_min, rates.rate_max),
        )
    yield from _objective(config)
    yield from _entropies(config)
    if not 0 <= config.objective.alpha <= 1:
        yield _wanted("objective.alpha", "a number in [0, 1]", config.objective.alpha)
    if 0 < train.max_steps <= train.warmup_steps:
        yield _wanted(
            "train.warmup_steps", f"below max_steps {train.max_steps}", train.warmup_steps
        )
    if 1 <= train.batch_size < train.num_workers:
        yield _wanted(
            "train.batch_size",
            f"an example for each of train.num_workers {train.num_workers}",
            train.batch_size,
        )
    yield from _parallelism(train)
    yield from _elastic(config)
    if config.lora.enabled and config.model.init == "random":
        yield (
            "lora.enabled: an adapter of random weights is of no use once these are gone; use "
            "model.init = pretrained"
        )
    if config.model.trust_remote_code:
        yield (
            "model.trust_remote_code: no built-in family runs code of a checkpoint; leave it false"
        )
    if not train.name or not _is_folder_name(train.name):
        yield _wanted("train.name", "a folder name", train.name)
    if not config.reference.name:
        yield _wanted("reference.name", "a folder name", config.reference.name)
    for key in ("evaluate.name", "merge.name", "reference.name"):
        if not _is_folder_name(_text(config, key)):
            yield _wanted(key, "a folder name", _text(config, key))


def _entropies(config: RunConfig) -> Iterator[str]:
    rates = config.rates
    if rates.entropies != "frozen" and rates.gamma == 0:
        yield (
            f"rates.entropies: {rates.entropies} entropies are never used when rates.gamma is 0 "
            f"(plain SFT); set rates.entropies to frozen"
        )
    if rates.entropies == "online" and rates.beta_ref == "dataset":
        yield (
            "rates.beta_ref: dataset needs entropies that are known before training; "
            "use sequence or batch with rates.entropies = online"
        )
    needs_tail_entropy = rates.tail == "entropy" and config.data.eos_policy != "one"
    if needs_tail_entropy and rates.beta_ref == "dataset":
        yield (
            "rates.beta_ref: dataset is a mean over responses, known before any tail is drawn; "
            "use sequence or batch with rates.tail = entropy"
        )
    if needs_tail_entropy and rates.entropies != "online" and config.reference.tail == 0:
        yield _wanted("reference.tail", "at least 1 with rates.tail = entropy", 0)
    if config.reference.estimator == "autoregressive":
        yield from _autoregressive(config, needs_tail_entropy)


def _objective(config: RunConfig) -> Iterator[str]:
    objective, rates = config.objective, config.rates
    if not 0 < objective.cart_p < 1:
        yield _wanted("objective.cart_p", "a number in (0, 1)", objective.cart_p)
    if objective.name != "weft" and objective.weighting != "paper":
        yield (
            f"objective.weighting: {objective.weighting} is a weight of the objective weft, and "
            f"objective.name is {objective.name}; leave it at paper"
        )
    if objective.name not in RATED and rates.entropies != "frozen":
        yield (
            f"rates.entropies: {rates.entropies} entropies are never used by the objective "
            f"{objective.name}; set rates.entropies to frozen"
        )
    if rates.entropies == "online" and config.reference.estimator not in ("full_mask", "nll"):
        yield (
            f"reference.estimator: online entropies take one pass, {config.reference.estimator} "
            f"does not; use full_mask or nll"
        )


def _autoregressive(config: RunConfig, needs_tail_entropy: bool) -> Iterator[str]:
    if not config.reference.checkpoint:
        yield (
            "reference.checkpoint: the estimator autoregressive wanted an autoregressive model, "
            "got nothing"
        )
    if needs_tail_entropy:
        yield "rates.tail: autoregressive entropies have no tail; wanted one, got entropy"
    if config.rates.entropies == "refreshed":
        yield (
            "rates.entropies: refreshed ones are the denoiser's own; use another estimator than "
            "autoregressive"
        )


def _parallelism(train: TrainSection) -> Iterator[str]:
    if train.cpu_offload and not (train.parallelism == "fsdp" and train.use_gpu):
        yield "train.cpu_offload: wanted train.parallelism fsdp and train.use_gpu with it"
    if train.parallelism == "fsdp" and train.optimizer == "muon":
        yield (
            "train.optimizer: muon needs whole matrices, which train.parallelism fsdp spreads over "
            "the workers; use adamw or ddp"
        )


def _elastic(config: RunConfig) -> Iterator[str]:
    train = config.train
    if train.min_workers > train.num_workers:
        yield _wanted(
            "train.min_workers", f"at most train.num_workers {train.num_workers}", train.min_workers
        )
    if 0 < train.min_workers < train.num_workers and config.depends_on_micro_batches:
        at_fault = "rates.beta_ref batch"
        if config.data.eos_policy == "pad_to_batch":
            at_fault = "data.eos_policy pad_to_batch"
        yield (
            f"train.min_workers: {at_fault} looks at a micro-batch, which depends on the number of "
            f"workers; wanted 0, got {train.min_workers}"
        )


def _is_folder_name(name: str) -> bool:
    return "/" not in name and not name.startswith(".")


def _tune(config: RunConfig) -> Iterator[str]:
    tune = config.tune
    if not tune.name or not _is_folder_name(tune.name):
        yield _wanted("tune.name", "a folder name", tune.name)
    if not 0 < tune.grace <= 1:
        yield _wanted("tune.grace", "a number in (0, 1]", tune.grace)
    if not 1 < tune.reduction_factor < math.inf:
        yield _wanted("tune.reduction_factor", "a finite number above 1", tune.reduction_factor)
    yield from search_space.problems(config)


def _jobs(pipeline: PipelineSection) -> Iterator[str]:
    for number, job in enumerate(pipeline.jobs):
        where = f"pipeline.jobs[{number}]"
        if not _is_folder_name(job.name):
            yield _wanted(f"{where}.name", "a folder name", job.name)
        for name in ("num_cpus", "num_gpus", "memory_gib"):
            if not 0 <= getattr(job, name) < math.inf:
                yield _wanted(f"{where}.{name}", "a finite number not below 0", getattr(job, name))
        for key in ("env", "runtime_env"):
            with contextlib.suppress(tomllib.TOMLDecodeError):  # named where it is used
                for name in _secret_names(tomllib.loads("\n".join(getattr(job, key)))):
                    yield (
                        f"{where}.{key}: wanted no secrets, which Ray, manifests and the report "
                        f"show, got a value for {name}; give it to the nodes (docs/operations.md)"
                    )


def _secret_names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of values, at any depth, that say that the value is a secret."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _secret_names(value, f"{prefix}{key}.")
        elif value and _SECRET_NAME.search(key) and not _NO_SECRET.match(str(value)):
            yield f"{prefix}{key}"


def _traces(traces: TracesSection) -> Iterator[str]:
    if not 0 < traces.top_p <= 1:
        yield _wanted("traces.top_p", "a number in (0, 1]", traces.top_p)
    if traces.keep > traces.num_samples:
        yield _wanted(
            "traces.keep", f"at most traces.num_samples {traces.num_samples}", traces.keep
        )
    if not traces.name or not _is_folder_name(traces.name):
        yield _wanted("traces.name", "a folder name", traces.name)
    yield from _each_source("traces.sources", traces.sources)
    for number, source in enumerate(traces.sources):
        key = f"traces.sources[{number}]"
        if source.kind == "pretraining":
            yield _wanted(f"{key}.kind", "one that has questions", source.kind)
        if source.weight:
            yield _wanted(f"{key}.weight", "none for questions", source.weight)
        has_solution = source.kind == "task" or source.format == "gsm8k" or source.solution_column
        if traces.verify and not has_solution:
            yield (
                f"{key}.solution_column: traces.verify wanted the column with the right answer, "
                f"got nothing"
            )


def _sources(sources: tuple[SourceSection, ...]) -> Iterator[str]:
    if not sources:
        yield _wanted("data.sources", "at least one source", [])
    yield from _each_source("data.sources", sources)
    for number, source in enumerate(sources):
        if not source.response_column:
            yield _wanted(f"data.sources[{number}].response_column", "a column", "")


def _each_source(where: str, sources: tuple[SourceSection, ...]) -> Iterator[str]:
    for number, source in enumerate(sources):
        key = f"{where}[{number}]"
        if source.kind == "task" and source.task not in PUZZLE_NAMES:
            yield _wanted(f"{key}.task", _one_of(PUZZLE_NAMES, source.task), source.task)
        if source.kind in ("task", "pretraining") and source.count < 1:
            yield _wanted(f"{key}.count", "at least 1", source.count)
        if source.kind in ("files", "hub") and not source.path:
            yield _wanted(f"{key}.path", f"a path or name for kind {source.kind}", source.path)
        if source.max_examples < 0:
            yield _wanted(f"{key}.max_examples", "a number not below 0", source.max_examples)
        if not 0 <= source.weight < math.inf:
            yield _wanted(f"{key}.weight", "a finite number not below 0", source.weight)
        columns = _COLUMNS if source.format != "columns" else ()
        for name in sorted({*_KEYS_OF_OTHER_KINDS[source.kind], *columns}):
            got = getattr(source, name)
            if got != getattr(SourceSection(kind=source.kind), name):
                what = f"format {source.format}" if name in columns else f"kind {source.kind}"
                yield _wanted(f"{key}.{name}", f"none for {what}", got)


def _one_of(names: tuple[str, ...], got: str) -> str:
    return f"one of {', '.join(names)}{did_you_mean(got, names)}"


def _evaluate(evaluate: EvaluateSection) -> Iterator[str]:
    for task in evaluate.tasks:
        if task not in TASK_NAMES:
            yield _wanted("evaluate.tasks", _one_of(TASK_NAMES, task), task)
        if task in CODE_NAMES and not evaluate.allow_code_execution:
            yield (
                f"evaluate.tasks: {task} is graded by running what the model wrote; "
                f"--allow-code-execution allows it, see docs/evaluation.md"
            )
        if task in PUZZLE_NAMES and evaluate.protocol != "own" and not evaluate.data_dir:
            yield (
                f"evaluate.data_dir: wanted the folder with the published items of {task}, which "
                f"the protocol {evaluate.protocol} is about, got nothing"
            )
    for key in ("tasks", "checkpoints", "gen_lengths"):
        values = getattr(evaluate, key)
        if len(set(values)) < len(values):
            yield _wanted(f"evaluate.{key}", "each once", list(values))
    if not evaluate.tasks:
        yield _wanted("evaluate.tasks", "at least one task", [])
    if evaluate.grader_timeout_s <= 0:
        yield _wanted("evaluate.grader_timeout_s", "a positive number", evaluate.grader_timeout_s)
    yield from protocols.problems(evaluate)
