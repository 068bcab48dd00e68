"""Whether an answer to a question of mathematics is the right one, whatever its notation."""

import logging
from typing import Any

_MOST_CHARACTERS = 2000
"""Read of an answer, from its end: an answer is short, and parsing costs time."""
TIMEOUT_S: int | None = 2
"""Of one attempt to parse or to compare; None in a process that is stopped from outside."""


def is_same_answer(answer: str, solution: str) -> bool:
    """Whether math-verify finds the last answer in ``answer`` equal to that in ``solution``.

    Either may be a bare expression, or text that ends with a boxed one. False where one of them
    cannot be read. Takes seconds at most; it must run in the main thread of its process, whose
    alarm math-verify uses.
    """
    wanted = _parse(solution)
    return bool(wanted) and _verify(wanted, _parse(answer[-_MOST_CHARACTERS:]))


def _parse(text: str) -> Any:
    from math_verify import parse

    _quiet()
    if "\\boxed" in text:
        text = text[text.rindex("\\boxed") :]  # all boxes would be taken for one answer
    elif "$" not in text.replace("\\$", ""):  # a price has a dollar too
        # A bare expression is not looked for unless it is set as mathematics.
        found = parse(f"${text}$", parsing_timeout=TIMEOUT_S)
        if found:
            return found
    return parse(text, parsing_timeout=TIMEOUT_S)


def _verify(wanted: Any, found: Any) -> bool:
    from math_verify import verify

    return bool(found) and bool(verify(wanted, found, timeout_seconds=TIMEOUT_S))


def _quiet() -> None:
    # Each text that cannot be parsed is worth a log line to the library, but not to a job.
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
