"""Texts that are nearly the same, by MinHash signatures of their n-grams of words.

Source: Broder, On the resemblance and containment of documents (1997); the hashing is datasketch's.
"""

import re
from typing import Any

import numpy as np

from pipeline.config import DataSection
from pipeline.sources import Row

_NUM_PERMUTATIONS = 128
_SHINGLE_WORDS = 5
_LEAST_THRESHOLD, _MARGIN = 0.1, 0.1
"""The index looks for less similar texts than are wanted, so that it finds nearly all of these."""
_SEED, _SCHEME = 1, "affine32"
_WORD = re.compile(r"\w+")


def signature_bytes(row: Row, data: DataSection) -> bytes | None:
    """The MinHash signature of what ``data`` compares of ``row``, as 128 little-endian uint32.

    None where nothing is compared: near duplicates are not looked for, or the row is generated.
    """
    if data.near_duplicates == 0 or row.is_generated:
        return None
    from datasketch import MinHash

    text = row.question or row.response
    if data.near_duplicates_of == "example" and row.question:
        text = f"{row.question}\n{row.response}"
    sketch = MinHash(num_perm=_NUM_PERMUTATIONS, seed=_SEED, scheme=_SCHEME)
    sketch.update_batch(_shingles(text))
    return bytes(sketch.hashvalues.astype("<u4").tobytes())


def _shingles(text: str) -> list[bytes]:
    words = _WORD.findall(text.lower())
    count = max(1, len(words) - _SHINGLE_WORDS + 1)
    runs = {" ".join(words[i : i + _SHINGLE_WORDS]) for i in range(count)}
    return [run.encode() for run in sorted(runs)]


class NearDuplicates:
    """The texts seen so far by running number, and which of them a further one nearly repeats."""

    def __init__(self, threshold: float) -> None:
        """``threshold`` is the estimated Jaccard similarity from which two texts are the same."""
        from datasketch import MinHashLSH

        self.threshold = threshold
        # Candidates are compared anyway: one too many costs time, one too few is a duplicate kept.
        self.index = MinHashLSH(
            threshold=max(_LEAST_THRESHOLD, threshold - _MARGIN),
            num_perm=_NUM_PERMUTATIONS,
            weights=(0.05, 0.95),
        )
        self.signatures: dict[int, np.ndarray] = {}

    def find(self, signature: bytes) -> tuple[int, float] | None:
        """Number and similarity of the text that has the most in common, if any has enough.

        Of several, the one with the lowest number.
        """
        sketch = _sketch(signature)
        best: tuple[int, float] | None = None
        for number in sorted(self.index.query(sketch)):
            same = float((self.signatures[number] == sketch.hashvalues).mean())
            if same >= self.threshold and (best is None or same > best[1]):
                best = number, same
        return best

    def add(self, number: int, signature: bytes) -> None:
        """Remember a text."""
        sketch = _sketch(signature)
        self.signatures[number] = sketch.hashvalues
        self.index.insert(number, sketch, check_duplication=False)


def _sketch(signature: bytes) -> Any:
    from datasketch import LeanMinHash

    values = np.frombuffer(signature, "<u4")
    return LeanMinHash(seed=_SEED, hashvalues=values, scheme=_SCHEME)
