"""Every artifact says what code and which machine made it."""

import re
from pathlib import Path

import pytest

from pipeline import artifacts, provenance
from pipeline.artifacts import Manifest


def test_an_artifact_says_its_code_and_machine(tmp_path: Path) -> None:
    artifacts.commit(str(tmp_path), Manifest(stage="x", config={}, inputs={}, facts={"seconds": 1}))
    found = artifacts.read_manifest(str(tmp_path))
    assert found is not None
    assert found.facts.keys() == {"seconds", "code", "commit", "machine"}
    assert re.search(r"weft \S+, torch \S+, .*Python 3", found.facts["code"])
    assert re.search(r"\d+ cores", found.facts["machine"])
    # They identify nothing.
    assert found.recipe == Manifest(stage="x", config={}, inputs={}).recipe


def test_code_outside_of_its_own_working_copy_has_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance.provenance.cache_clear()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    assert provenance.provenance()["commit"] == "unknown"
    provenance.provenance.cache_clear()


def test_a_machine_without_git_or_driver_is_described_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provenance.provenance.cache_clear()
    monkeypatch.setenv("PATH", "")
    found = provenance.provenance()
    assert found["commit"] == "unknown"
    assert "cores" in found["machine"]
    provenance.provenance.cache_clear()
