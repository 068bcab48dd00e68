"""Answers to MATH: d1's published reading of them, and the comparison of their notation.

Source: the protocol of dllm-reasoning/d1, and the normalisation that came with the data set
(Hendrycks et al., arXiv 2103.03874).
"""

import re

from weft.tasks.grading.extraction import d1_box, first_answer

_PLAIN_FRACTION = re.compile(r"(-?(?:0|[1-9]\d{0,40}))/(-?(?:0|[1-9]\d{0,40}))")
_UNITS = "\\text{ "


def d1_extract(text: str) -> str | None:
    """The last box, the whole text where there is none, the answer tag where it never closes."""
    box = d1_box(text)
    return first_answer(text) if box is None else box


def d1_is_correct(text: str, answer: str) -> bool:
    """d1's verdict: equal after the normalisation, or equal as they are where that fails."""
    found = d1_extract(text)
    if found is None:
        return False
    try:
        return normalized(found) == normalized(answer)
    except ValueError:
        return found == answer


def normalized(answer: str) -> str:
    """``answer`` in one of its notations: ``0.5``, ``1/2`` and ``\\tfrac12`` are one.

    Raises ValueError where the published code fails: several units, a root or a fraction of
    nothing, a slash between anything but two whole numbers.
    """
    text = answer.replace("\n", "").replace("\\!", "").replace("\\\\", "\\")
    for notation in ("tfrac", "dfrac"):
        text = text.replace(notation, "frac")
    for notation in ("\\left", "\\right", "^{\\circ}", "^\\circ", "\\$"):
        text = text.replace(notation, "")
    text = _without_units(text).replace("\\%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    if not text:
        return text
    if text.startswith("."):
        text = f"0{text}"
    name, *values = text.split("=")
    if len(values) == 1 and len(name) <= 2:
        text = values[0]
    text = _braced_fractions(_braced_roots(text).replace(" ", ""))
    if text == "0.5":
        text = "\\frac{1}{2}"
    return _slash_as_fraction(text)


def _without_units(text: str) -> str:
    left, *units = text.split(_UNITS)
    if len(units) > 1:
        raise ValueError(f"normalized: wanted one unit, got {len(units)}")
    return left


def _braced_roots(text: str) -> str:
    left, *roots = text.split("\\sqrt")
    if "" in roots:
        raise ValueError("normalized: wanted something under each root")
    return left + "".join(
        f"\\sqrt{root}" if root[0] == "{" else f"\\sqrt{{{root[0]}}}{root[1:]}" for root in roots
    )


def _braced_fractions(text: str) -> str:
    left, *fractions = text.split("\\frac")
    if "" in fractions:
        raise ValueError("normalized: wanted something in each fraction")
    if any(len(part) < 2 and part[0] != "{" for part in fractions):
        return text
    return left + "".join(f"\\frac{_braced_fraction(part)}" for part in fractions)


def _braced_fraction(part: str) -> str:
    if part[0] == "{":
        return part
    top, bottom, rest = part[0], part[1], part[2:]
    return f"{{{top}}}{bottom}{rest}" if bottom == "{" else f"{{{top}}}{{{bottom}}}{rest}"


def _slash_as_fraction(text: str) -> str:
    if text.count("/") != 1:
        return text
    match = _PLAIN_FRACTION.fullmatch(text)
    if match is None:
        raise ValueError("normalized: wanted whole numbers on both sides of the slash")
    return f"\\frac{{{match[1]}}}{{{match[2]}}}"
