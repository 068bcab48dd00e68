"""Best of n: which samples of a question become traces."""

from typing import Any

from pipeline.config import TracesSection

UNFINISHED, WRONG, NO_ANSWER = "unfinished", "wrong_answer", "no_answer"
REPEATED, NOT_PREFERRED = "duplicate", "not_preferred"


def choose(samples: list[dict[str, Any]], section: TracesSection) -> list[str]:
    """For each sample of one question why it is no trace; empty for those that are kept.

    A trace ended by itself, has an answer, and, with ``traces.verify``, the right one; of equal
    texts the first counts. Of the rest the ``traces.keep`` preferred ones are kept.
    """
    reasons = [_refusal(sample, section) for sample in samples]
    seen: set[str] = set()
    for number, sample in enumerate(samples):
        text = " ".join(sample["generation"].split())
        if not reasons[number] and text in seen:
            reasons[number] = REPEATED
        if not reasons[number]:
            seen.add(text)
    left = [number for number, reason in enumerate(reasons) if not reason]
    sign = {"shortest": 1, "longest": -1, "first": 0}[section.prefer]
    for number in sorted(left, key=lambda n: (sign * samples[n]["num_tokens"], n))[section.keep :]:
        reasons[number] = NOT_PREFERRED
    return reasons


def _refusal(sample: dict[str, Any], section: TracesSection) -> str:
    if not sample["is_finished"]:
        return UNFINISHED
    if not sample["answer"]:
        return NO_ANSWER
    return WRONG if section.verify and not sample["is_correct"] else ""
