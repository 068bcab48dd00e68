"""Finding the answer in generated text. All functions are total and take linear time."""

import re

END_TOKENS = ("<|eot_id|>", "<|endoftext|>")
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"
_BOX = "\\boxed"


def before_end(text: str) -> str:
    """``text`` up to its first end token."""
    return text[: first_of(text, END_TOKENS, 0)]


def first_of(text: str, marks: tuple[str, ...], start: int) -> int:
    """Position of the first of ``marks`` from ``start`` on; the length of ``text`` if none."""
    found = [place for mark in marks if (place := text.find(mark, start)) >= 0]
    return min(found, default=len(text))


def last_answer(text: str) -> str | None:
    """What the last complete ``<answer>`` ... ``</answer>`` holds, stripped."""
    close = text.rfind(ANSWER_CLOSE)
    opening = text.rfind(ANSWER_OPEN, 0, max(close, 0))
    return None if opening < 0 else text[opening + len(ANSWER_OPEN) : close].strip()


def first_answer(text: str) -> str | None:
    """What is between the first ``<answer>`` and the next ``</answer>``, stripped."""
    opening = text.find(ANSWER_OPEN)
    close = text.find(ANSWER_CLOSE, max(opening, 0))
    return None if opening < 0 or close < 0 else text[opening + len(ANSWER_OPEN) : close].strip()


def last_balanced_box(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` whose braces close holds, stripped."""
    open_braces: list[int] = []
    start, end = -1, -1
    for brace in re.finditer(r"[{}]", text):
        place = brace.start()
        if brace.group() == "{":
            open_braces.append(place)
        elif open_braces:
            opening = open_braces.pop()
            if opening > start and text.endswith(_BOX, 0, opening):
                start, end = opening, place
    return None if start < 0 else text[start + 1 : end].strip()


def d1_box(text: str) -> str | None:
    r"""d1's box: after the last ``\boxed `` up to ``$``, else the braces after the last ``\boxed``,
    else those after the last ``\fbox``, else the whole text; None if the braces never close."""
    if f"{_BOX} " in text:
        return text.rpartition(f"{_BOX} ")[2].partition("$")[0]
    place = text.rfind(_BOX)
    if place < 0:
        place = text.rfind("\\fbox")
    if place < 0:
        return text
    return _braced(text, place)


def _braced(text: str, start: int) -> str | None:
    depth, opening = 0, -1
    for brace in re.compile(r"[{}]").finditer(text, start):
        if brace.group() == "{":
            opening = brace.start() if depth == 0 else opening
            depth += 1
        elif depth > 0:
            depth -= 1
            if depth == 0:
                return text[opening + 1 : brace.start()]
    return None
