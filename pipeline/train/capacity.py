"""Whether a run fits into the memory that is there, asked before anything is loaded."""

import math
from pathlib import Path

import psutil
import torch

from pipeline.config import RunConfig
from pipeline.train.memory import Shape, require_fits

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


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


def main_memory() -> int:
    """Bytes that this machine, or the container that this process runs in, may use."""
    try:
        text = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        text = "max"
    limit = math.inf if text == "max" else int(text)
    return int(min(psutil.virtual_memory().total, limit))
