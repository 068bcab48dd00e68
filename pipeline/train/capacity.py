"""Whether a run fits into the memory that is there, asked before anything is loaded."""

import dataclasses
import math
from pathlib import Path

import psutil
import torch

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.sizes import size_text
from pipeline.train.memory import Shape, step_memory

RESERVES = {"cuda": 2**30, "cpu": 2**28}
"""Bytes that a device's libraries take beside tensors: kernels, communication, fragments."""

_STEPS_OF_SEARCH = 32
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def on_workers(config: RunConfig, num_workers: int) -> RunConfig:
    """``config`` on so many workers, which it may come to when machines are missing."""
    train = dataclasses.replace(config.train, num_workers=num_workers, min_workers=0)
    return dataclasses.replace(config, train=train)


def largest_shape(config: RunConfig, num_examples: int, longest: int) -> Shape:
    """The largest micro-batch of a run; ``longest`` tokens has its longest example, tails apart."""
    data, train = config.data, config.train
    row = data.max_length
    if data.eos_policy != "pad_to_max":
        tail = data.tail_max if data.eos_policy == "random_tail" else 0
        row = min(row, longest + tail)
    examples = -(-min(train.batch_size, num_examples) // train.num_workers)
    return Shape(
        num_tokens=max(row, min(train.micro_batch_tokens, examples * row)),
        row_length=row,
        accumulates=examples * row > train.micro_batch_tokens,
    )


def check_stated_memory(config: RunConfig, shape: Shape) -> None:
    """Raise ConfigError where a step needs more than ``train.device_memory_gib``, unless 0."""
    stated = config.train.device_memory_gib
    if stated:
        require_fits(config, shape, int(stated * 2**30), "train.device_memory_gib")


def check_memory(config: RunConfig, shape: Shape, device: torch.device, num_workers: int) -> None:
    """Raise ConfigError where a step needs more than is there; the setting overrules the device.

    ``num_workers`` share the main memory of this machine.
    """
    if config.train.device_memory_gib:
        check_stated_memory(config, shape)
    elif device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        require_fits(config, shape, total, torch.cuda.get_device_name(device))
    else:
        share = main_memory() // num_workers
        require_fits(config, shape, share, f"one of the {num_workers} workers of this machine")


def require_fits(config: RunConfig, shape: Shape, limit: int, where: str) -> None:
    """Raise ConfigError unless a worker's step fits into ``limit`` bytes; see ``largest_tokens``.

    ``where`` says whose memory it is.
    """
    needed = needed_bytes(config, shape)
    if needed <= limit:
        return
    here = f"needs {size_text(needed)} of the {size_text(limit)} of {where}"
    most = largest_tokens(config, shape, limit)
    if most is None:
        raise ConfigError(
            f"train.micro_batch_tokens: {shape.num_tokens} tokens {here}, and one example of "
            f"{shape.row_length} alone is too large; {_advice(config)}"
        )
    raise ConfigError(
        f"train.micro_batch_tokens: {shape.num_tokens} tokens {here}; wanted at most {most}, got "
        f"{config.train.micro_batch_tokens}; lower it"
    )


def needed_bytes(config: RunConfig, shape: Shape) -> int:
    """Memory of a step, and of what libraries keep for themselves."""
    return step_memory(config, shape).peak + RESERVES["cuda" if config.train.use_gpu else "cpu"]


def largest_tokens(config: RunConfig, shape: Shape, limit: int) -> int | None:
    """The largest micro-batch below ``shape`` that fits ``limit`` bytes; None if no example does.

    In tokens, to a 32nd of what is between one example and ``shape``.
    """
    low, high = shape.row_length, shape.num_tokens
    step = max(1, (high - low) // _STEPS_OF_SEARCH)

    def fits(num_tokens: int) -> bool:
        smaller = dataclasses.replace(shape, num_tokens=num_tokens, accumulates=True)
        return needed_bytes(config, smaller) <= limit

    if not fits(low):
        return None
    while high - low > step:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _advice(config: RunConfig) -> str:
    train = config.train
    ways = {
        "train.gradient_checkpointing": not train.gradient_checkpointing,
        "train.parallelism fsdp over more workers": train.parallelism != "fsdp",
        "more train.num_workers": train.parallelism == "fsdp",
        "lora.enabled": not config.lora.enabled,
        "train.cpu_offload": train.use_gpu and not train.cpu_offload,
        "a lower data.max_length": True,
    }
    return "try " + ", ".join(way for way, is_open in ways.items() if is_open)


def main_memory() -> int:
    """Bytes that this machine, or the container that this process runs in, may use."""
    try:
        text = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        text = "max"
    limit = math.inf if text == "max" else int(text)
    return int(min(psutil.virtual_memory().total, limit))
