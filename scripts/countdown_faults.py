"""Where Countdown traces go wrong: ``python scripts/countdown_faults.py EVALUATION_FOLDER ...``.

Of each evaluation's Countdown generations: how many equations are true, and of the items that were
not solved the first thing that is wrong with them.
"""

import operator
import re
import sys
from collections import Counter
from typing import Any

from pipeline.evaluate.rows import read_rows
from pipeline.tables import text_table

_EQUATION = re.compile(r"(\d+) *([-+*/]) *(\d+) *= *(\d+)")
_OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_SOLVED = "solved"
_FAULTS = ("no answer", "false equation", "target not reached", "wrong expression")
COLUMNS = ("evaluation", "items", "equations true", _SOLVED, *_FAULTS)


def _is_true(left: str, sign: str, right: str, result: str) -> bool:
    if sign == "/" and int(right) == 0:
        return False
    return bool(_OPERATORS[sign](int(left), int(right)) == int(result))


def faults(rows: list[dict[str, Any]]) -> tuple[Counter[str], Counter[bool]]:
    """Items by their first fault, and equations by their truth."""
    kinds: Counter[str] = Counter()
    equations: Counter[bool] = Counter()
    for row in rows:
        target = int(row["prompt"].rpartition("=")[2])
        reasoning = row["generation"].partition("</reasoning>")[0]
        found = [match.groups() for match in _EQUATION.finditer(reasoning)]
        truths = [_is_true(*parts) for parts in found]
        equations.update(truths)
        is_reached = any(int(parts[3]) == target for parts in found)
        checks = (row["extracted"], all(truths), is_reached, row["correct"])
        first = next((f for f, ok in zip(_FAULTS, checks, strict=True) if not ok), _FAULTS[-1])
        kinds[_SOLVED if row["correct"] else first] += 1
    return kinds, equations


def _share(counts: Counter[bool]) -> str:
    total = counts[True] + counts[False]
    return f"{counts[True] / total:.1%} of {total}" if total else "none"


def main(folders: list[str]) -> None:
    """Print one row an evaluation."""
    table = []
    for folder in folders:
        rows = [row for row in read_rows(folder) if row["task"] == "countdown"]
        kinds, equations = faults(rows)
        if not rows:
            raise SystemExit(f"{folder}: wanted an evaluation of countdown, got no items of it")
        shares = [f"{kinds[kind] / len(rows):.1%}" for kind in (_SOLVED, *_FAULTS)]
        name = folder.rstrip("/").rpartition("/")[2]
        table.append((name, str(len(rows)), _share(equations), *shares))
    print(text_table(COLUMNS, table))


if __name__ == "__main__":
    main(sys.argv[1:])
