"""What a stage will need, estimated before anything starts: parameters, steps, memory."""

import dataclasses
from dataclasses import dataclass

from pipeline import artifacts
from pipeline.config import RunConfig
from pipeline.errors import CheckpointError
from pipeline.layout import layout
from pipeline.prepare import require_prepared
from pipeline.sizes import size_text
from pipeline.sources import open_source
from pipeline.train.capacity import check_stated_memory, largest_shape, on_workers
from pipeline.train.memory import step_memory
from pipeline.train.plan import num_steps_of_epoch, total_steps
from weft.head import rows_within

_FLOAT32 = 4


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a denoiser."""

    num_parameters: int
    width: int
    mlp_width: int
    vocab_size: int
    num_layers: int


def model_size(path: str) -> ModelSize:
    """Sizes of the denoiser at ``path``, built on the meta device: nothing is loaded."""
    from weft.models import meta_denoiser

    try:
        denoiser = meta_denoiser(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    architecture = denoiser.architecture
    return ModelSize(
        num_parameters=sum(p.numel() for p in denoiser.parameters()),
        width=architecture.width,
        mlp_width=architecture.mlp_width,
        vocab_size=denoiser.vocab_size,
        num_layers=len(denoiser.layers()),
    )


def describe_inference(
    path: str,
    *,
    num_tokens: int,
    num_rows: int,
    head_chunk_mib: int | None = None,
    bytes_of_weight: int = 4,
    cached_tokens: int = 0,
) -> str:
    """Parameters of a model that only infers, and the memory of one actor, part by part.

    ``num_tokens`` go through the blocks at once, ``num_rows`` of them through the head, which has
    ``head_chunk_mib`` of logits at once, or all; of ``cached_tokens`` keys and values are kept.
    """
    size = model_size(path)
    if head_chunk_mib is not None:
        num_rows = min(num_rows, rows_within(head_chunk_mib, size.vocab_size))
    parts = inference_bytes(
        size, num_tokens=num_tokens, num_rows=num_rows, bytes_of_weight=bytes_of_weight
    )
    if cached_tokens:
        # As many heads of keys as of queries: what grouped ones save is not counted.
        per_token = 2 * size.num_layers * size.width * bytes_of_weight
        parts["cache"] = cached_tokens * per_token
    return _memory("actor", size, parts)


def forward_flops(size: ModelSize, *, num_tokens: float, length: float) -> float:
    """Floating-point operations of one forward pass over ``num_tokens`` in texts of ``length``.

    Two a weight and token, of which the embedding has none, and four a pair of positions, channel
    and layer in attention, which is not causal. Source: Kaplan et al. (arXiv 2001.08361), table 1.
    """
    weights = size.num_parameters - size.vocab_size * size.width
    return num_tokens * (2.0 * weights + 4.0 * length * size.width * size.num_layers)


def inference_bytes(
    size: ModelSize, *, num_tokens: int, num_rows: int, bytes_of_weight: int = 4
) -> dict[str, int]:
    """Bytes of weights, of one block's activations, and of float32 logits with their softmax."""
    return {
        "weights": size.num_parameters * bytes_of_weight,
        "activations": num_tokens * (10 * size.width + 4 * size.mlp_width) * bytes_of_weight,
        "head": num_rows * size.vocab_size * 2 * _FLOAT32,
    }


def _memory(what: str, size: ModelSize, parts: dict[str, int]) -> str:
    lines = [
        f"memory of one {what} ({size.num_parameters:,} parameters), estimated:",
        *(f"  {name:<12} {size_text(value)}" for name, value in parts.items()),
        f"  {'total':<12} {size_text(sum(parts.values()))}",
    ]
    return "\n".join(lines)


def describe_training(config: RunConfig, num_examples: int, origin: str) -> str:
    """Steps and memory of one worker, part by part; see ``count_examples``.

    Raises ConfigError for more memory than ``train.device_memory_gib`` allows.
    """
    train = config.train
    per_epoch = num_steps_of_epoch(num_examples, train.batch_size)
    steps = total_steps(per_epoch, train.epochs, train.max_steps)
    longest = longest_example(config)
    shape = largest_shape(config, num_examples, longest)
    memory = step_memory(config, shape)
    fewest = on_workers(config, train.min_workers or train.num_workers)
    check_stated_memory(fewest, largest_shape(fewest, num_examples, longest))
    parts = dataclasses.asdict(memory)
    peak = parts.pop("peak")
    parts = {name: value for name, value in parts.items() if value or name != "gathered"}
    return (
        f"train: {num_examples} examples ({origin}), {per_epoch} steps an epoch, {steps} steps\n"
        f"memory of one worker, estimated for a micro-batch of {shape.num_tokens} tokens:\n"
        + "".join(f"  {name:<12} {size_text(value)}\n" for name, value in parts.items())
        + f"  {'at the peak':<12} {size_text(peak)}"
    )


def count_examples(config: RunConfig) -> tuple[int, str]:
    """How many examples there are, and where that is known from."""
    if artifacts.read_manifest(layout(config).prepared) is None:
        data = config.data
        parts = [part for source in data.sources for part in open_source(data, source).survey()]
        return sum(part.num_rows for part in parts), "before preparing"
    return require_prepared(config).num_rows, "prepared"


def longest_example(config: RunConfig) -> int:
    """Tokens of the longest prepared example; as many as are allowed before that is known."""
    manifest = artifacts.read_manifest(layout(config).prepared)
    facts = {} if manifest is None else manifest.facts
    return int(facts.get("longest", config.data.max_length))
