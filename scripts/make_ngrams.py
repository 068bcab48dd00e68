"""List the n-grams of the published test questions: ``python scripts/make_ngrams.py``.

Only hashes are kept. Run it again with the folder of the benchmark files (``--data-dir``) when
``weft/tasks/contamination.py`` cuts texts in another way.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from weft.tasks.contamination import NGRAM_FILE, QUESTION_FILES, ngram_hashes, ngrams

_TARGET = Path(__file__).resolve().parent.parent / "weft" / "tasks" / "data" / NGRAM_FILE


def listing(data_dir: Path) -> dict[str, np.ndarray]:
    """See ``weft.tasks.contamination``: hashes with their items, sizes, first items."""
    hashes: list[np.ndarray] = []
    first_items = []
    for name in QUESTION_FILES.values():
        first_items.append(len(hashes))
        lines = (data_dir / name).read_text(encoding="utf-8").splitlines()
        hashes += [ngram_hashes(ngrams(json.loads(line)["question"])) for line in lines]
    sizes = np.array([len(item) for item in hashes], np.uint16)
    together, items = np.concatenate(hashes), np.repeat(np.arange(len(hashes)), sizes)
    order = np.argsort(together, kind="stable")
    return {
        "hashes": together[order],
        "items": items[order].astype(np.uint16),
        "sizes": sizes,
        "first_items": np.array(first_items, np.uint16),
    }


def main() -> None:
    """Read the benchmark files and write the index."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, default=Path("../shared/data/benchmarks"))
    found = listing(parser.parse_args().data_dir)
    np.savez_compressed(_TARGET, **found)
    print(f"{len(found['hashes'])} n-grams of {len(found['sizes'])} questions -> {_TARGET.name}")


if __name__ == "__main__":
    main()
