"""Stage reference: the frozen reference model's entropies of the run's prepared data."""

import time

from pipeline import artifacts
from pipeline.artifacts import Manifest
from pipeline.cluster import ray_session
from pipeline.config import RunConfig, identity
from pipeline.errors import CheckpointError
from pipeline.layout import layout
from pipeline.models import check_context, check_packing, weights_fingerprint
from pipeline.prepare import require_prepared, verify_prepared
from pipeline.reference.compute import EntropyJob, compute
from pipeline.sizes import size_text
from pipeline.tokenizers import (
    own_tokens,
    tokenizer_fingerprints,
    tokenizer_fingerprints_at,
)
from pipeline.vllm_engine import require_vllm

_BYTES = {"float32": 4, "bfloat16": 2}


def run(config: RunConfig, *, overwrite: bool = False) -> None:
    """Write the ``entropies`` artifact, the missing shards of it, or say that it is done."""
    prepared = require_prepared(config)
    verify_prepared(config)
    _check_model(config)
    [(folder, wanted)] = outputs(config)
    if artifacts.is_done(folder, wanted, overwrite=overwrite):
        print(f"reference: {folder} is already finished; --overwrite repeats it")
        return
    started = time.monotonic()
    job = EntropyJob(config, reference_checkpoint(config), folder)
    cpus, gpus = resources(config)
    with ray_session(cpus=cpus, gpus=gpus):
        made = compute(job, wanted, prepared, overwrite=overwrite)
    seconds, rate = time.monotonic() - started, made.facts["tokens_per_second"]
    print(
        f"reference: {made.num_rows} examples, rejected {made.rejected}, in {seconds:.0f} s "
        f"({rate:,.0f} tokens a second once started) -> {folder}"
    )


def outputs(config: RunConfig) -> list[tuple[str, Manifest]]:
    """The entropies, with what its manifest must say."""
    return [(layout(config).entropies, wanted_manifest(config, require_prepared(config)))]


def resources(config: RunConfig) -> tuple[float, float]:
    """CPUs and GPUs that all actors hold together."""
    section = config.reference
    return section.num_actors * section.num_cpus, section.num_actors * section.num_gpus


def reference_checkpoint(config: RunConfig) -> str:
    """The reference model: the configured one, or the base model."""
    return config.reference.checkpoint or config.model.path


def describe(config: RunConfig) -> str:
    """What ``run`` would do, for ``--dry-run``."""
    from pipeline.train.estimate import count_examples, describe_inference

    _check_model(config)
    section = config.reference
    passes = section.num_levels if section.estimator == "expected" else 1
    num_examples, origin = count_examples(config)
    if section.estimator == "autoregressive":
        return (
            f"reference: {num_examples} examples ({origin}), next-token entropies of "
            f"{section.checkpoint} by vLLM, {section.num_actors} actors -> "
            f"{layout(config).entropies}"
        )
    memory = describe_inference(
        reference_checkpoint(config),
        num_tokens=section.batch_tokens,
        num_rows=section.batch_tokens,
        head_chunk_mib=section.head_chunk_mib,
        bytes_of_weight=_BYTES[section.precision],
    )
    return (
        f"reference: {num_examples} examples ({origin}), estimator {section.estimator}, {passes} "
        f"forward passes an example, {section.num_actors} actors, {section.batch_tokens} tokens a "
        f"batch -> {layout(config).entropies}\n{memory}\n{_describe_cost(config, passes)}"
    )


def _describe_cost(config: RunConfig, passes: int) -> str:
    """Operations and storage, of data that are prepared."""
    from pipeline.train.estimate import forward_flops, model_size

    found = artifacts.read_manifest(layout(config).prepared)
    if found is None:
        return "work: known once the data are prepared"
    tokens = found.facts["num_tokens"] + config.reference.tail * found.num_rows
    size = model_size(reference_checkpoint(config))
    flops = passes * forward_flops(size, num_tokens=tokens, length=tokens / found.num_rows)
    return (
        f"work: {passes * tokens:,} tokens, {flops / 1e15:,.3g} PFLOP; entropies of at most "
        f"{size_text(4 * tokens)}"
    )


def _check_model(config: RunConfig) -> None:
    path = reference_checkpoint(config)
    if config.reference.estimator == "autoregressive":
        require_vllm("reference.estimator autoregressive")
        own_tokens(config.model.path, path)
        return
    if config.reference.packing:
        check_packing(path, "reference.packing")
    check_context(
        path,
        config.data.max_length + config.reference.tail,
        "data.max_length and reference.tail",
    )
    check_tokenizer(config)


def wanted_manifest(config: RunConfig, prepared: Manifest) -> Manifest:
    """What the reference artifact of ``config`` over ``prepared`` must say of itself."""
    section = config.reference
    path = reference_checkpoint(config)
    settings = {k: v for k, v in identity(section).items() if k != "checkpoint"}
    unused = {"num_levels", "top_logprobs"}
    if section.estimator == "expected":
        unused = {"top_logprobs"}
    elif section.estimator == "autoregressive":
        unused = {"num_levels", "tail"}
    settings = {k: v for k, v in settings.items() if k not in unused}
    seed = {"run": {"seed": config.run.seed}} if section.estimator == "expected" else {}
    inputs = {"prepared": prepared.content, "weights": weights_fingerprint(path)}
    return Manifest(
        stage="reference",
        config={"reference": settings} | seed,
        inputs=inputs | tokenizer_fingerprints(config.model),
    )


def check_tokenizer(config: RunConfig) -> None:
    """Raise CheckpointError unless the prepared ids mean the same to the reference model.

    Its chat template is not used and may differ.
    """
    other = config.reference.checkpoint
    if not other:
        return
    found = tokenizer_fingerprints_at(other)["tokenizer"]
    wanted = tokenizer_fingerprints(config.model)["tokenizer"]
    if found != wanted:
        raise CheckpointError(
            f"reference.checkpoint {other}: wanted the tokenizer of model.path ({wanted}), got "
            f"another one ({found}); entropies of other tokens say nothing of these"
        )
