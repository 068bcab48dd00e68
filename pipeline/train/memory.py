"""Memory that a worker needs: its step is run on tensors without data, and what lives is counted.

Nothing is loaded, and no GPU is needed to know what one would hold. What torch.compile changes is
not counted, nor what libraries keep for themselves.
"""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from pipeline.config import RunConfig
from pipeline.train.live_bytes import LiveBytes
from pipeline.train.optim import build_optimizers
from pipeline.train.start import meta_start, working_dtype
from weft.head import rows_within, weighted_cross_entropy
from weft.models.base import Denoiser
from weft.models.blocks import BlockDenoiser

_GATHERED_BLOCKS = 2
"""Blocks whose weights FSDP holds whole at once: the one that runs, and the next."""


@dataclass(frozen=True)
class Shape:
    """The largest micro-batch."""

    num_tokens: int
    """Padding included, unless packed."""
    row_length: int
    """Tokens of its longest example."""
    accumulates: bool
    """Whether an optimizer step adds up several of them."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes on a worker's device. All but ``peak`` are there at some time, not at the same time."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int
    """Of blocks that FSDP holds whole while they run, with their gradients."""
    activations: int
    """What the passes through the network need beside all of the above."""
    head: int
    """What the loss adds to what the network keeps for its backward pass."""
    peak: int


@functools.lru_cache(maxsize=2)
def step_memory(config: RunConfig, shape: Shape) -> StepMemory:
    """Memory of one optimizer step of a worker.

    Raises CheckpointError where ``model.path`` is no known architecture.
    """
    train = config.train
    kept, used = _kept_bytes(config), _pass_bytes(config, shape)
    gathered, passes = 0, used.peak
    if train.parallelism == "fsdp":
        kept = kept.share(0.0 if train.cpu_offload else 1 / train.num_workers)
        parts = _gathered_bytes(config)
        gathered = parts.weights + parts.block_gradients
        passes = kept.gradients + max(gathered + used.peak, parts.at_the_end)
    return StepMemory(
        weights=kept.weights,
        gradients=kept.gradients,
        optimizer=kept.optimizer,
        gathered=gathered,
        activations=used.activations,
        head=used.head,
        peak=kept.weights + kept.optimizer + max(passes, kept.gradients + kept.update),
    )


@contextmanager
def _counting() -> Iterator[LiveBytes]:
    with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
        yield live


@dataclass(frozen=True)
class _Kept:
    """Bytes from step to step."""

    weights: int
    gradients: int
    optimizer: int
    update: int
    """What the optimizer adds to them while it updates."""

    def share(self, part: float) -> "_Kept":
        """Of a worker that has this part of all weights."""
        return _Kept(*(int(part * value) for value in dataclasses.astuple(self)))


@functools.lru_cache(maxsize=1)
def _kept_bytes(config: RunConfig) -> _Kept:
    """On a worker that has all weights."""
    denoiser = meta_start(config)
    with _counting() as live:
        _without_data(denoiser)
        weights = live.now
        trained = [p for p in denoiser.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        gradients = live.now - weights
        optimizers = build_optimizers(denoiser, config.train, num_steps=1)
        optimizers.step()
        optimizer = live.now - weights - gradients
        live.restart()
        optimizers.step()
        return _Kept(weights, gradients, optimizer, live.peak - live.now)


@dataclass(frozen=True)
class _Pass:
    """Bytes of a forward and a backward pass."""

    activations: int
    head: int
    peak: int
    """Above the weights; with all gradients, or under FSDP with those around the blocks."""


def _pass_bytes(config: RunConfig, shape: Shape) -> _Pass:
    """Of one micro-batch of ``shape``."""
    denoiser = meta_start(config)
    train = config.train
    is_spread = train.parallelism == "fsdp"
    autocasts = train.precision == "bfloat16" and not is_spread
    # DistributedDataParallel keeps its gradients in buckets, which are always there.
    keeps_gradients = not is_spread and (shape.accumulates or train.num_workers > 1)
    with _counting() as live:
        _without_data(denoiser, None if autocasts else working_dtype(config))
        if train.use_gpu and isinstance(denoiser, BlockDenoiser):
            denoiser.use_plain_attention()
        weights = live.now
        trained = [p for p in denoiser.parameters() if p.requires_grad]
        if keeps_gradients:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
        if is_spread:
            _drop_gradients_of_blocks(denoiser)
        before = live.now
        live.restart()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocasts):
            hidden = _hidden(denoiser, shape, packed=train.packing)
            forward_peak, kept = live.peak, live.now
            live.restart()
            loss = _loss(hidden, denoiser, train.head_chunk_mib)
            head_peak = live.peak
        live.restart()
        del hidden
        loss.backward()  # type: ignore[no-untyped-call]
        made = sum(_bytes(p.grad) for p in trained if p.grad is not None)
        backward_peak = live.peak - (0 if keeps_gradients else made)
        return _Pass(
            activations=max(forward_peak, backward_peak) - before,
            head=head_peak - kept,
            peak=max(forward_peak, head_peak, live.peak) - weights,
        )


def _drop_gradients_of_blocks(denoiser: Denoiser) -> None:
    """Let each go when it is there, as FSDP does once it has added them up over the ranks."""
    for layer in denoiser.layers():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                    _drop_gradient
                )


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _hidden(denoiser: Denoiser, shape: Shape, *, packed: bool) -> Tensor:
    if packed:
        return denoiser.hidden_states(torch.zeros((1, shape.num_tokens), dtype=torch.int64))[0]
    size = (max(1, shape.num_tokens // shape.row_length), shape.row_length)
    mask = torch.ones(size, dtype=torch.bool) if size[0] > 1 else None
    return denoiser.hidden_states(torch.zeros(size, dtype=torch.int64), mask).flatten(0, 1)


def _loss(hidden: Tensor, denoiser: Denoiser, head_chunk_mib: int) -> Tensor:
    """Of all rows, as when t is close to 1."""
    rows = hidden[torch.arange(len(hidden))]
    loss, _ = weighted_cross_entropy(
        rows,
        torch.zeros(len(rows), dtype=torch.int64),
        torch.ones(len(rows)),
        denoiser.head,
        chunk_size=rows_within(head_chunk_mib, denoiser.vocab_size),
    )
    return loss


@dataclass(frozen=True)
class _Gathered:
    """Bytes of what FSDP has whole for a while."""

    weights: int
    """Of what is around the blocks, and of the blocks that run."""
    block_gradients: int
    at_the_end: int
    """What is around the blocks, with its gradients, once the blocks are done."""


def _gathered_bytes(config: RunConfig) -> _Gathered:
    denoiser = meta_start(config)
    item = working_dtype(config).itemsize
    blocks = [_numbers(layer) for layer in denoiser.layers()]
    around, around_trained = (
        total - sum(part[n] for part in blocks) for n, total in enumerate(_numbers(denoiser))
    )
    block, block_trained = (max(part[n] for part in blocks) for n in range(2))
    gradient = item + 4  # and once more in float32, to be added up over the ranks
    return _Gathered(
        weights=item * (around + _GATHERED_BLOCKS * block),
        block_gradients=gradient * block_trained,
        at_the_end=item * around + gradient * around_trained,
    )


def _numbers(module: nn.Module) -> tuple[int, int]:
    """Weights of ``module``: all, and those that are trained."""
    parameters = list(module.parameters())
    return (
        sum(p.numel() for p in parameters),
        sum(p.numel() for p in parameters if p.requires_grad),
    )


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _without_data(denoiser: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Move weights from the meta device to a CPU that has no data either; shared ones stay so.

    Only there does autocast know what to do.
    """
    moved: dict[int, Tensor] = {}
    for module in denoiser.modules():
        for kept in (module._parameters, module._buffers):
            for name, tensor in kept.items():
                if tensor is None:
                    continue
                if id(tensor) not in moved:
                    moved[id(tensor)] = _moved(tensor, dtype)
                kept[name] = moved[id(tensor)]  # type: ignore[assignment]


def _moved(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    is_cast = dtype is not None and isinstance(tensor, nn.Parameter)
    new = torch.empty_like(tensor, device="cpu", dtype=dtype if is_cast else tensor.dtype)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(new, requires_grad=tensor.requires_grad)
    return new
