"""The nearest valid name, for error messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(got: str, valid: Iterable[str]) -> str:
    """`` (did you mean X?)`` with the valid name nearest to ``got``, or an empty string."""
    nearest = difflib.get_close_matches(got, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {nearest[0]}?)" if nearest else ""
