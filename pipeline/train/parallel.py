"""Data parallelism: whole replicas (DDP) or weights spread over the ranks (FSDP2)."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipeline.config import TrainSection
from pipeline.train.world import World
from weft.models.base import Denoiser


def shard(denoiser: Denoiser, train: TrainSection, world: World) -> None:
    """Spread the weights of every block, and of what is around the blocks, over the ranks.

    Before optimizers are built: they then keep their state of a rank's own part alone. Blocks
    gather their weights when they run, in bfloat16 where that is the working precision; gradients
    are added up in float32.
    """
    mesh = init_device_mesh(world.device.type, (world.size,))
    working = torch.bfloat16 if train.precision == "bfloat16" else None
    precision = MixedPrecisionPolicy(param_dtype=working, reduce_dtype=torch.float32)
    offload = CPUOffloadPolicy() if train.cpu_offload else OffloadPolicy()
    for module in [*denoiser.layers(), denoiser]:
        fully_shard(module, mesh=mesh, mp_policy=precision, offload_policy=offload)
    # The step calls this rather than the denoiser itself; its weights are gathered there.
    register_fsdp_forward_method(denoiser, "hidden_states")


def replicate(module: nn.Module, denoiser: Denoiser, world: World) -> nn.Module:
    """``module`` as a replica of all ranks' where its weights are not spread over them."""
    if world.size == 1 or isinstance(denoiser, FSDPModule):
        return module
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


@contextlib.contextmanager
def accumulating(module: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Run one of several backward passes.

    Replicas exchange gradients after the last one only. Where weights are spread, each pass adds
    its own to the spread ones: whole gradients would not fit.
    """
    if isinstance(module, DistributedDataParallel) and not is_last:
        with module.no_sync():
            yield
    else:
        yield


def scale_and_clip(denoiser: Denoiser, factor: float, limit: float) -> float:
    """Multiply all gradients by ``factor``, clip their global norm; the norm before.

    ``limit`` 0 means no clipping. The norm is that of all ranks' parts together.
    """
    parameters = [p for p in denoiser.parameters() if p.grad is not None]
    for parameter in parameters:
        parameter.grad.mul_(factor)  # type: ignore[union-attr]
    norm = nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else float("inf"))
    return float(whole(norm))


def whole(tensor: Tensor) -> Tensor:
    """``tensor`` with the parts of all ranks; every rank has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_state(
    denoiser: Denoiser, world: World, *, only_trained: bool = False
) -> dict[str, Tensor]:
    """The weights on rank 0, in main memory, one gathered at a time; nothing on the others."""
    trained = {name for name, p in denoiser.named_parameters() if p.requires_grad}
    state: dict[str, Tensor] = {}
    for name, tensor in denoiser.state_dict().items():
        if only_trained and name not in trained:
            continue
        gathered = whole(tensor)
        if world.rank == 0:
            state[name] = gathered.detach().cpu()
    return state
