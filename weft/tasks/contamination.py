"""Whether a text asks for an item of a published benchmark: shared 8-grams of words, or a puzzle.

Questions of GSM8K and MATH-500 are known by hashes of their n-grams alone, made by
``scripts/make_ngrams.py``, so that training data stays clean where the files are absent.
"""

import functools
import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from weft.tasks.base import Problem
from weft.tasks.fingerprints import is_benchmark_item

NGRAM_FILE = "benchmark_ngrams.npz"
NGRAM_LENGTH = 8
"""Words of an n-gram; the length that s1K was decontaminated with (arXiv 2501.19393)."""
QUESTION_FILES = {"gsm8k": "gsm8k_test.jsonl", "math500": "math500.jsonl"}

_WORD = re.compile(r"[a-z0-9]+")
_NUMBERS_ALONE = re.compile(r"[0-9 ]+")


@dataclass(frozen=True)
class Overlap:
    """What a text has in common with one benchmark item."""

    benchmark: str
    item: int
    """Row of the benchmark's file, from 0."""
    share: float
    """Of the item's n-grams, in (0, 1]."""
    words: str
    """The first n-gram that both have; of a puzzle, the puzzle."""


def ngrams(text: str) -> list[str]:
    """Runs of eight words of ``text``, in lower case and without punctuation; a shorter text whole.

    Each once, in the order of the text; those of numbers alone (1, 2, 3, ...) only where there are
    no others.
    """
    words = _WORD.findall(text.lower())
    runs = (words[i : i + NGRAM_LENGTH] for i in range(max(1, len(words) - NGRAM_LENGTH + 1)))
    grams = list(dict.fromkeys(" ".join(run) for run in runs if run))
    return [gram for gram in grams if not _NUMBERS_ALONE.fullmatch(gram)] or grams


def ngram_hashes(grams: list[str]) -> np.ndarray:
    """64-bit hashes of n-grams: uint64 of the same length."""
    digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    return np.frombuffer(digests, dtype="<u8")


def find_overlap(text: str) -> Overlap | None:
    """The benchmark item that ``text`` has most of; None where it has nothing of any.

    A 4x4 Sudoku or a Countdown problem of a benchmark counts as a whole item.
    """
    puzzle = _benchmark_puzzle(text)
    if puzzle is not None:
        return Overlap(puzzle.task, -1, 1.0, str(puzzle.data))
    grams = ngrams(text)
    index = _index()
    hashes = ngram_hashes(grams)
    low = np.searchsorted(index["hashes"], hashes, side="left")
    high = np.searchsorted(index["hashes"], hashes, side="right")
    hits = np.flatnonzero(high > low)
    if not len(hits):
        return None
    items = np.concatenate([index["items"][low[k] : high[k]] for k in hits])
    counts = np.bincount(items, minlength=len(index["sizes"]))
    shares = counts / index["sizes"]
    best = int(shares.argmax())
    words = next(grams[k] for k in hits if best in index["items"][low[k] : high[k]])
    benchmark = int(np.searchsorted(index["first_items"], best, side="right")) - 1
    name, first = list(QUESTION_FILES)[benchmark], int(index["first_items"][benchmark])
    return Overlap(name, best - first, float(shares[best]), words)


@functools.cache
def _index() -> dict[str, np.ndarray]:
    """``hashes`` in rising order with their ``items``; ``sizes`` of items; ``first_items``."""
    with (files("weft.tasks") / "data" / NGRAM_FILE).open("rb") as content:
        return dict(np.load(content, allow_pickle=False))


_GRID = re.compile(r"(?<![0-9])[0-4]{16}(?![0-9])")
_NUMBERS = re.compile(r"\[\s*(\d{1,4}(?:\s*,\s*\d{1,4}){2})\s*\]\D{0,80}?(\d{1,6})")


def _benchmark_puzzle(text: str) -> Problem | None:
    """The first benchmark item that is written out: a grid of 16 digits, or numbers and target."""
    for grid in _GRID.findall(text):
        problem = Problem("sudoku", "", {"puzzle": grid})
        if is_benchmark_item(problem):
            return problem
    for numbers, target in _NUMBERS.findall(text):
        values = {"numbers": [int(n) for n in numbers.split(",")], "target": int(target)}
        problem = Problem("countdown", "", values)
        if is_benchmark_item(problem):
            return problem
    return None
