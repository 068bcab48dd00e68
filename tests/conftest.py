"""Fixtures of all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared test data; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WEFT_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no shared data: set WEFT_SHARED_DATA or put it into ../shared/data")
    return folder
