"""The table of docs/evaluation.md: both graders on real generations.

python scripts/compare_graders.py ORACLE.jsonl.gz BENCHMARK_FOLDER
"""

import gzip
import json
import sys

from weft.tasks import get_task


def main(generations: str, benchmarks: str) -> None:
    """Print a row for each task: right by d1, by the strict grader, by one of them alone."""
    with gzip.open(generations, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for name in ("gsm8k", "math500", "countdown", "sudoku"):
        task = get_task(name)
        items = {item.item_id: item for item in task.load_benchmark(benchmarks)}
        mine = [row for row in rows if row["task"] == name]
        found = [task.grade(items[row["bench_id"]], row["generation"]) for row in mine]
        d1 = sum(bool(v.d1_correct) for v in found)
        strict = sum(v.correct for v in found)
        only_d1 = sum(bool(v.d1_correct) and not v.correct for v in found)
        only_strict = sum(v.correct and not v.d1_correct for v in found)
        shares = [f"{count} ({100 * count / len(mine):.1f} %)" for count in (d1, strict)]
        print(f"| {name} | {len(mine)} | {shares[0]} | {shares[1]} | {only_d1} | {only_strict} |")


if __name__ == "__main__":
    main(*sys.argv[1:])
