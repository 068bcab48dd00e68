"""What a stage will need, estimated before anything starts: parameters, steps, memory."""

from dataclasses import dataclass

from pipeline import artifacts
from pipeline.config import RunConfig
from pipeline.errors import CheckpointError
from pipeline.layout import layout
from pipeline.prepare import require_prepared
from pipeline.sources import count_rows
from pipeline.train.plan import num_steps_of_epoch, total_steps
from weft.head import rows_within

_FLOAT32, _BFLOAT16 = 4, 2


@dataclass(frozen=True)
class ModelSize:
    """What the estimates need to know of a denoiser."""

    num_parameters: int
    num_in_block_matrices: int
    """Parameters that Muon would take."""
    width: int
    num_layers: int
    mlp_width: int
    vocab_size: int


def model_size(path: str) -> ModelSize:
    """Sizes of the denoiser at ``path``, built on the meta device: nothing is loaded."""
    from pipeline.train.optim import is_block_matrix
    from weft.models import meta_denoiser

    try:
        denoiser = meta_denoiser(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    architecture = denoiser.architecture
    return ModelSize(
        num_parameters=sum(p.numel() for p in denoiser.parameters()),
        num_in_block_matrices=sum(
            p.numel() for name, p in denoiser.named_parameters() if is_block_matrix(name, p)
        ),
        width=architecture.width,
        num_layers=architecture.num_layers,
        mlp_width=architecture.mlp_width,
        vocab_size=denoiser.vocab_size,
    )


def describe_inference(
    path: str, *, num_tokens: int, num_rows: int, head_chunk_mib: int | None = None
) -> str:
    """Parameters of a model that only infers, and the memory of one actor, part by part.

    ``num_tokens`` go through the blocks at once, ``num_rows`` of them through the head, which has
    ``head_chunk_mib`` of logits at once, or all.
    """
    size = model_size(path)
    if head_chunk_mib is not None:
        num_rows = min(num_rows, rows_within(head_chunk_mib, size.vocab_size))
    parts = inference_bytes(size, num_tokens=num_tokens, num_rows=num_rows)
    return _memory("actor", size, parts)


def inference_bytes(size: ModelSize, *, num_tokens: int, num_rows: int) -> dict[str, int]:
    """Bytes of float32 weights, of one block's activations, and of logits with their softmax."""
    return {
        "weights": size.num_parameters * _FLOAT32,
        "activations": num_tokens * (10 * size.width + 4 * size.mlp_width) * _FLOAT32,
        "head": num_rows * size.vocab_size * 2 * _FLOAT32,
    }


def _memory(what: str, size: ModelSize, parts: dict[str, int]) -> str:
    lines = [
        f"memory of one {what} ({size.num_parameters:,} parameters), estimated:",
        *(f"  {name:<12} {mib(value)}" for name, value in parts.items()),
        f"  {'total':<12} {mib(sum(parts.values()))}",
    ]
    return "\n".join(lines)


def describe_training(config: RunConfig, num_examples: int, origin: str) -> str:
    """Steps and memory of one worker, part by part; see ``count_examples``."""
    size = model_size(config.model.path)
    train = config.train
    per_epoch = num_steps_of_epoch(num_examples, train.batch_size)
    steps = total_steps(per_epoch, train.epochs, train.max_steps)
    return (
        f"train: {num_examples} examples ({origin}), {per_epoch} steps an epoch, {steps} steps\n"
        f"{_memory('worker', size, training_bytes(size, config))}"
    )


def training_bytes(size: ModelSize, config: RunConfig) -> dict[str, int]:
    """Bytes of weights, gradients, optimizer, activations and head in one training step.

    Activations count what a block of RMSNorm, attention and SwiGLU keeps for its backward pass:
    about 10 values of the model's width and 4 of the MLP's for every token; with gradient
    checkpointing one width a block, and one block in full.
    """
    train = config.train
    tokens = train.micro_batch_tokens
    item = _BFLOAT16 if train.precision == "bfloat16" else _FLOAT32
    per_block = tokens * (10 * size.width + 4 * size.mlp_width) * item
    blocks = size.num_layers * per_block
    if train.gradient_checkpointing:
        blocks = size.num_layers * tokens * size.width * item + per_block
    # AdamW keeps two moments of a parameter, Muon one.
    moments = 2 * size.num_parameters
    if train.optimizer == "muon":
        moments -= size.num_in_block_matrices
    rows = min(tokens, rows_within(train.head_chunk_mib, size.vocab_size))
    return {
        "weights": size.num_parameters * _FLOAT32,
        "gradients": size.num_parameters * _FLOAT32,
        "optimizer": moments * _FLOAT32,
        "activations": blocks,
        # Logits in the working precision, their float32 copy, and its gradient.
        "head": rows * size.vocab_size * (item + 2 * _FLOAT32),
    }


def count_examples(config: RunConfig) -> tuple[int, str]:
    """How many examples there are, and where that is known from."""
    if artifacts.read_manifest(layout(config).prepared) is None:
        return sum(count_rows(source) for source in config.data.sources), "before preparing"
    return require_prepared(config).num_rows, "prepared"


def mib(num_bytes: int) -> str:
    """``num_bytes`` as text: ``5.3 MiB``."""
    return f"{num_bytes / 2**20:,.1f} MiB"
