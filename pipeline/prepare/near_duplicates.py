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
_MOST_CANDIDATES = 500
"""Texts that resemble so many others, if less than is wanted, are not remembered: of a million
questions made from one template each would be compared with all."""
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
        self._signatures = np.empty((1024, _NUM_PERMUTATIONS), np.uint32)
        self._numbers: list[int] = []
        self.num_crowded = 0
        """Texts that were not remembered."""

    def visit(self, number: int, signature: bytes) -> tuple[int, float] | None:
        """Number and similarity of the text that this one has the most in common with, if enough.

        Of several, the one that came first. None: it is no near duplicate, and is remembered as
        ``number``, unless it has too much in common with too many.
        """
        sketch = _sketch(signature)
        places = np.array(sorted(self.index.query(sketch)), np.int64)
        if len(places):
            same = (self._signatures[places] == sketch.hashvalues).mean(axis=1)
            best = int(same.argmax())
            if same[best] >= self.threshold:
                return self._numbers[places[best]], float(same[best])
        if len(places) >= _MOST_CANDIDATES:
            self.num_crowded += 1
        else:
            self._remember(number, sketch)
        return None

    def _remember(self, number: int, sketch: Any) -> None:
        place = len(self._numbers)
        if place == len(self._signatures):
            self._signatures = np.resize(self._signatures, (2 * place, _NUM_PERMUTATIONS))
        self._signatures[place] = sketch.hashvalues
        self._numbers.append(number)
        self.index.insert(place, sketch, check_duplication=False)


def _sketch(signature: bytes) -> Any:
    from datasketch import LeanMinHash

    values = np.frombuffer(signature, "<u4")
    return LeanMinHash(seed=_SEED, hashvalues=values, scheme=_SCHEME)
