"""What the benchmarks share: times taken in turns, peak memory, the machine, and the last line."""

import multiprocessing
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Run = Callable[[], Any]


def seconds_in_turns(runs: Mapping[str, Run], *, rounds: int) -> dict[str, list[float]]:
    """Seconds of each run in each round, after one round that is not counted.

    All runs take their turn in every round, so that what slows the machine down for a while slows
    all of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            _wait_for_device()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _wait_for_device() -> None:
    """Let what was given to a GPU come to its end."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median over the rounds of the quotient of two runs of one round."""
    return statistics.median(n / d for n, d in zip(numerators, denominators, strict=True))


def peak_bytes(make: Callable[..., Run], *args: Any) -> int:
    """Memory that the run ``make(*args)`` takes at its peak, above what was there before it.

    Both happen in a process of their own; ``make`` builds the inputs, which do not count. Of a GPU,
    where there is one, else of main memory.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_peak, args=(sender, make, *args))
    process.start()
    sender.close()  # so that a child that dies ends the wait
    try:
        peak: int = receiver.recv()
    finally:
        process.join()
    return peak


def _measure_peak(sender: Any, make: Callable[..., Run], *args: Any) -> None:
    run = make(*args)
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        sender.send(torch.cuda.max_memory_allocated() - before)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status_bytes("VmRSS")
    run()
    sender.send(_status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, key
    return int(found[1]) * 1024


def describe_machine() -> str:
    """Processor, threads, library and commit, for whoever reads the figures."""
    if torch.cuda.is_initialized():
        return f"machine: {torch.cuda.get_device_name()}, {_versions()}"
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    name = cpu[1] if cpu else platform.processor()
    cores = len(os.sched_getaffinity(0))
    return f"machine: {name}, {cores} cores, {torch.get_num_threads()} threads, {_versions()}"


def _versions() -> str:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"torch {torch.__version__}, commit {commit or 'unknown'}"


def print_results(**values: float | int | str) -> None:
    """The machine, then the last line: ``key=value ...``."""
    print(describe_machine())
    shown = (f"{v:.3f}" if isinstance(v, float) else str(v) for v in values.values())
    print(" ".join(f"{key}={value}" for key, value in zip(values, shown, strict=True)))
