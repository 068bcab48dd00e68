"""Which problems training must not see: the published test items, and a held-out share.

The published items are known by SHA-256 alone, so that training data stays clean where the files
are absent. The list is made by ``scripts/make_fingerprints.py``.
"""

import functools
import hashlib
import json
from importlib.resources import files

from weft.tasks import get_puzzle
from weft.tasks.base import Problem

FINGERPRINT_FILE = "benchmark_fingerprints.json"
_HELD_OUT_ONE_IN = 16


def fingerprint(problem: Problem) -> str:
    """SHA-256 (64 hexadecimal digits) of the task's name and the problem's identity.

    Equal for two problems exactly if they are the same item, whatever their ids, the order of their
    numbers or their example solution.
    """
    identity = get_puzzle(problem.task).identity(problem)
    return hashlib.sha256(f"{problem.task}:{identity}".encode()).hexdigest()


def is_benchmark_item(problem: Problem) -> bool:
    """Whether the problem is an item of a published test file."""
    return fingerprint(problem) in benchmark_fingerprints()


def is_held_out(problem: Problem) -> bool:
    """Whether the problem belongs to the sixteenth that is generated for evaluation only.

    Decided by content, so it holds for any seed and any number of workers.
    """
    return int(fingerprint(problem), 16) % _HELD_OUT_ONE_IN == 0


@functools.cache
def benchmark_fingerprints() -> frozenset[str]:
    """Fingerprints of all published test items of the tasks known here."""
    path = files("weft.tasks") / "data" / FINGERPRINT_FILE
    listed = json.loads(path.read_text(encoding="utf-8"))["fingerprints"]
    return frozenset(digest for digests in listed.values() for digest in digests)
