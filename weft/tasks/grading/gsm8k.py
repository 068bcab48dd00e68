"""Answers to GSM8K: d1's published reading of them."""

import re

from weft.tasks.grading.extraction import first_answer

_OPEN = "\\boxed{"
_NUMBER = re.compile(r"-?\d+\.?\d*")
_MAX_CHARACTERS = 400
"""Of a number; what is longer is more than any float and equal to no answer."""


def d1_extract(text: str) -> float | None:
    """The number that d1 grades. Source: the protocol of dllm-reasoning/d1.

    The first box, up to its first closing brace, that has a number; else the first answer tag, as a
    number or for its last one. Digits behind a comma are not read: ``43,500`` is 43.
    """
    for content in _boxes(text):
        if content.strip("."):
            number = _float(content)
            if number is None:
                number = _float(_first(content))
            if number is not None:
                return number
    answer = first_answer(text)
    if answer is None:
        return None
    number = _float(answer)
    found = _NUMBER.findall(answer)
    return _float(found[-1]) if number is None and found else number


def d1_is_correct(text: str, answer: str) -> bool:
    """d1's verdict; a reference with a minus sign is never right, because d1 cannot read it."""
    return not answer.startswith("-") and d1_extract(text) == float(answer)


def _boxes(text: str) -> list[str]:
    """What stands between each ``\\boxed{`` and the next closing brace on its line, stripped."""
    found = []
    for line in text.split("\n"):
        place = line.find(_OPEN)
        while place >= 0:
            close = line.find("}", place + len(_OPEN))
            if close < 0:
                break
            found.append(line[place + len(_OPEN) : close].strip())
            # Matches do not overlap: a box inside another one belongs to the outer one.
            place = line.find(_OPEN, close)
    return found


def _first(content: str) -> str:
    match = _NUMBER.search(content)
    return match.group() if match else ""


def _float(text: str) -> float | None:
    if len(text) > _MAX_CHARACTERS:
        return None
    try:
        return float(text)
    except ValueError:
        return None
