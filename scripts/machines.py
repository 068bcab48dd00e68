"""Machines of clouds that cluster files may ask for, by what their makers say of them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Machine:
    """What one machine has."""

    cpus: int
    memory_gib: int
    gpus: int = 0


MACHINES = {
    "m7i.2xlarge": Machine(8, 32),
    "m7i.4xlarge": Machine(16, 64),
    "p4d.24xlarge": Machine(96, 1152, 8),
    "p4de.24xlarge": Machine(96, 1152, 8),
    "p5.48xlarge": Machine(192, 2048, 8),
    "n2-standard-8": Machine(8, 32),
    "n2-standard-16": Machine(16, 64),
    "a2-ultragpu-8g": Machine(96, 1360, 8),
    "a3-highgpu-8g": Machine(208, 1872, 8),
}
"""By the names of AWS and Google Cloud."""


def ray_version() -> str:
    """Of constraints.txt."""
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]
