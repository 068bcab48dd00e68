"""Which texts are kept out for what they say: a wrong answer, another language, a test question."""

import functools
import re
from typing import Any

from pipeline.config import DataSection
from pipeline.sources import Row
from pipeline.tokenization import Refused

OVERLAP = "benchmark_overlap"
"""Reason of a text that has too much of a test question."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_READ_CHARACTERS = 2000
_SURE = 0.5
"""Probability of a language from which a text is taken to be in it."""


def refusal(row: Row, data: DataSection) -> Refused | None:
    """Why ``row`` is kept out, before it becomes tokens; None when nothing speaks against it.

    Generated problems are checked where they are made.
    """
    if row.reason:
        return Refused(row.reason, row.detail)
    if row.is_generated:
        return None
    return _wrong_answer(row) or _other_language(row, data) or _test_question(row, data)


def _wrong_answer(row: Row) -> Refused | None:
    from weft.tasks.math_answers import is_same_answer

    if row.solution is None or is_same_answer(row.answer, row.solution):
        return None
    return Refused("wrong_answer", f"wanted {row.solution[:80]!r}, got {row.answer[-80:]!r}")


def _other_language(row: Row, data: DataSection) -> Refused | None:
    if not data.languages:
        return None
    language, probability = language_of(f"{row.question}\n{row.response}")
    if language in data.languages or probability < _SURE:
        return None
    wanted = ", ".join(data.languages)
    return Refused("other_language", f"wanted {wanted}, got {language} ({probability:.2f})")


def language_of(text: str) -> tuple[str, float]:
    """Language of the words of ``text`` as an ISO 639-1 code, and its probability; formulae aside.

    Of a text with hardly any words the probability is low.
    """
    words = " ".join(_WORD.findall(_COMMAND.sub(" ", text[: 2 * _READ_CHARACTERS])))
    language, probability = _identifier().classify(words[:_READ_CHARACTERS])
    return str(language), float(probability)


@functools.cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def known_languages() -> list[str]:
    """Codes that ``language_of`` can give."""
    return sorted(_identifier().labels)


def _test_question(row: Row, data: DataSection) -> Refused | None:
    from weft.tasks.contamination import find_overlap

    if data.max_overlap == 1:
        return None
    overlap = find_overlap(row.question or row.response)
    if overlap is None or overlap.share <= data.max_overlap:
        return None
    where = (
        f"item {overlap.item} of {overlap.benchmark}"
        if overlap.item >= 0
        else (f"an item of {overlap.benchmark}")
    )
    return Refused(OVERLAP, f"{100 * overlap.share:.0f} % of {where}: {overlap.words!r}")
