"""List the fingerprints of the published test items: ``python scripts/make_fingerprints.py``.

Run it again with the folder of the benchmark files (``--data-dir``) when a task is added.
"""

import argparse
import json
from pathlib import Path

from weft.tasks import PUZZLE_NAMES, get_task
from weft.tasks.fingerprints import FINGERPRINT_FILE, fingerprint

_TARGET = Path(__file__).resolve().parent.parent / "weft" / "tasks" / "data" / FINGERPRINT_FILE


def listing(data_dir: str) -> dict[str, object]:
    """Sorted fingerprints by task, and how they are made."""
    digests = {
        name: sorted({fingerprint(item) for item in get_task(name).load_benchmark(data_dir)})
        for name in PUZZLE_NAMES
    }
    return {"algorithm": "SHA-256 of 'task:identity', UTF-8", "fingerprints": digests}


def main() -> None:
    """Read the benchmark files and write the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", default="../shared/data/benchmarks")
    content = json.dumps(listing(parser.parse_args().data_dir), indent=1)
    _TARGET.parent.mkdir(exist_ok=True)
    _TARGET.write_text(content + "\n", encoding="utf-8")
    print(f"{content.count(chr(10))} lines -> {_TARGET.name}")


if __name__ == "__main__":
    main()
