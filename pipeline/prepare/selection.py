"""Which of the usable rows are examples: each text once, and of each source what its share is.

Decided for all shards together, from ids and signatures alone, in the order of the sources. The
choice of a source is by the hash of (seed, example id): it depends on nothing but these.
"""

import dataclasses
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.config import DataSection
from pipeline.prepare.near_duplicates import NearDuplicates
from pipeline.prepare.shards import Dropped

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A usable row, by where its draft is."""

    shard: int
    row: int
    example_id: str
    source: int
    signature: bytes | None = None


def choose(candidates: Iterable[Candidate], data: DataSection) -> dict[int, dict[int, Dropped]]:
    """The rows that are dropped, by shard and row of its draft; all others are examples."""
    dropped: dict[int, dict[int, Dropped]] = defaultdict(dict)
    left: dict[int, list[Candidate]] = defaultdict(list)
    for candidate, why in _without_duplicates(candidates, data):
        if why is None:
            # Without the signature, which is not needed any more.
            left[candidate.source].append(dataclasses.replace(candidate, signature=None))
        else:
            dropped[candidate.shard][candidate.row] = why
    for source, found in left.items():
        most = data.sources[source].max_examples or len(found)
        left[source] = _sample(found, data, most, dropped)
    for source, quota in _quotas({s: len(found) for s, found in left.items()}, data).items():
        left[source] = _sample(left[source], data, quota, dropped)
    return dict(dropped)


def _without_duplicates(
    candidates: Iterable[Candidate], data: DataSection
) -> Iterator[tuple[Candidate, Dropped | None]]:
    """Each candidate, and why it is a duplicate of one before it, if it is."""
    seen: set[str] = set()
    ids: list[str] = []
    similar = NearDuplicates(data.near_duplicates) if data.near_duplicates else None
    for candidate in candidates:
        name = candidate.example_id
        if name in seen:
            what = f"its text is that of example {name} before it"
            yield candidate, Dropped("duplicate", what)
            continue
        seen.add(name)
        signature = candidate.signature
        if similar is not None and signature is not None:
            found = similar.visit(len(ids), signature)
            if found is not None:
                what = f"similarity {found[1]:.2f} to example {ids[found[0]]} before it"
                yield candidate, Dropped("near_duplicate", what)
                continue
            ids.append(name)
        yield candidate, None
    if similar is not None and similar.num_crowded:
        logger.warning(
            "near_duplicates: texts=%d were not remembered, because they resemble hundreds of "
            "others, less than near_duplicates",
            similar.num_crowded,
        )


def _sample(
    found: list[Candidate],
    data: DataSection,
    count: int,
    dropped: dict[int, dict[int, Dropped]],
) -> list[Candidate]:
    """``count`` of them; the others are entered in ``dropped``."""
    in_turn = sorted(found, key=lambda candidate: _lot(candidate, data))
    for candidate in in_turn[count:]:
        what = f"{count} of {len(found)} examples were taken"
        dropped[candidate.shard][candidate.row] = Dropped("not_chosen", what)
    return in_turn[:count]


def _lot(candidate: Candidate, data: DataSection) -> bytes:
    return hashlib.sha256(f"{data.seed}:{candidate.example_id}".encode()).digest()


def _quotas(counts: dict[int, int], data: DataSection) -> dict[int, int]:
    """Examples of each weighted source: as many as can be had in the ratio of the weights."""
    weights = {n: s.weight for n, s in enumerate(data.sources) if s.weight and counts.get(n)}
    if not weights:
        return {}
    scale = min(counts[n] / weight for n, weight in weights.items())
    return {n: max(1, int(scale * weight + 1e-9)) for n, weight in weights.items()}
