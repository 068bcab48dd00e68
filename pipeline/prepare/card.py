"""The data card: what each source gave, how long its examples are, and what was kept out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage

CARD = "card.json"
LISTED_OVERLAPS = 50
"""Rows listed in the card of those that have too much of a test question."""
LENGTH_EDGES = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Lower edges (tokens) of the bins of lengths; the last one is open."""


def _no_lengths() -> list[int]:
    return [0] * len(LENGTH_EDGES)


@dataclass(frozen=True)
class SourceCard:
    """Examples of one source and their lengths in tokens."""

    num_examples: int = 0
    prompt_tokens: int = 0
    response_tokens: int = 0
    longest: int = 0
    """Tokens of the longest prompt and response together."""
    prompt_lengths: list[int] = field(default_factory=_no_lengths)
    """Examples by length of the prompt, in the bins of ``LENGTH_EDGES``."""
    response_lengths: list[int] = field(default_factory=_no_lengths)

    @staticmethod
    def of_table(table: pa.Table) -> "dict[str, SourceCard]":
        """The cards of the sources in ``table``."""
        sources = np.asarray(table.column("source").to_pylist(), dtype=object)
        prompts, responses = (
            np.asarray(pc.list_value_length(table.column(name).combine_chunks()))
            for name in ("prompt_ids", "response_ids")
        )
        return {
            name: SourceCard._of_lengths(prompts[sources == name], responses[sources == name])
            for name in sorted(set(sources))
        }

    @staticmethod
    def _of_lengths(prompts: np.ndarray, responses: np.ndarray) -> "SourceCard":
        return SourceCard(
            num_examples=len(prompts),
            prompt_tokens=int(prompts.sum()),
            response_tokens=int(responses.sum()),
            longest=int((prompts + responses).max(initial=0)),
            prompt_lengths=_histogram(prompts),
            response_lengths=_histogram(responses),
        )

    def __add__(self, other: "SourceCard") -> "SourceCard":
        """Both together."""
        return SourceCard(
            num_examples=self.num_examples + other.num_examples,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            response_tokens=self.response_tokens + other.response_tokens,
            longest=max(self.longest, other.longest),
            prompt_lengths=_sums(self.prompt_lengths, other.prompt_lengths),
            response_lengths=_sums(self.response_lengths, other.response_lengths),
        )


def _histogram(lengths: np.ndarray) -> list[int]:
    counts = np.histogram(lengths, bins=[*LENGTH_EDGES, np.inf])[0]
    return [int(count) for count in counts]


def _sums(one: list[int], other: list[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def write_card(
    folder: str,
    cards: Mapping[str, SourceCard],
    rejected: Mapping[str, Mapping[str, int]],
    overlaps: list[dict[str, Any]],
) -> None:
    """Write ``card.json``: for each source its examples, lengths, and rejected rows by reason.

    Of the rows that have too much of a test question, the first are listed too.
    """
    empty = SourceCard()
    sources: dict[str, Any] = {}
    for name in sorted({*cards, *rejected}):
        card = cards.get(name, empty)
        sources[name] = vars(card) | {"rejected": dict(sorted(rejected.get(name, {}).items()))}
    listed = {"benchmark_overlaps": overlaps[:LISTED_OVERLAPS]}
    content = {"length_edges": LENGTH_EDGES, "sources": sources} | listed
    storage.write_json(storage.join(folder, CARD), content)
