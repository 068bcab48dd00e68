"""Fixtures of all tests."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from weft.models import random_denoiser, save_denoiser
from weft.models.checkpoints import EMBEDDED


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the shared test data; tests that need it are skipped where it is absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("WEFT_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip("no shared data: set WEFT_SHARED_DATA or put it into ../shared/data")
    return folder


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: the embedded architecture and tokenizer with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    generator = torch.Generator().manual_seed(0)
    save_denoiser(random_denoiser("tiny", generator=generator), folder)
    for file in EMBEDDED["tiny"].iterdir():
        if "safetensors" not in file.name and file.name != "config.json":
            shutil.copy(file, folder)
    return folder
