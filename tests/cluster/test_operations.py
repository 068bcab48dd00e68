"""The local commands of docs/operations.md, one after the other, as they stand there."""

import os
import re
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.raylets import end_processes_of, free_port

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "operations.md"
PORTS = ("8300", "8301")
TIMEOUT_S = 300


def commands() -> str:
    text = PAGE.read_text(encoding="utf-8")
    marker = f"<!-- executed by {Path(__file__).relative_to(ROOT)} -->"
    assert text.count(marker) == 1
    block = re.search(r"```bash\n(.*?)```", text[text.index(marker) :], re.DOTALL)
    assert block is not None
    return block[1]


@pytest.fixture
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a new user, and a Ray with a folder of its own, whose processes all end with the test."""
    folder = tmp_path_factory.mktemp("ray")
    names = ("ADDRESS", "API_SERVER_ADDRESS", "ENABLE_WINDOWS_OR_OSX_CLUSTER", "AUTH_MODE")
    hidden = {f"RAY_{name}" for name in names}
    own = {key: value for key, value in os.environ.items() if key not in hidden}
    own |= dict.fromkeys(("RAY_TMPDIR", "WEFT_HOME", "HOME"), str(folder))
    own["PATH"] = f"{Path(os.sys.executable).parent}:{own['PATH']}"  # type: ignore[attr-defined]
    yield own
    end_processes_of(folder)


def run(text: str, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-ec", text],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_every_command_does_what_the_page_says(env: dict[str, str], tmp_path: Path) -> None:
    text = commands().replace("$PWD/runs", str(tmp_path))
    for port in PORTS:
        text = text.replace(port, str(free_port()))
    done = run(text, env)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "first" / "entropies" / "manifest.json").is_file()
    assert done.stdout.count("status=<JobStatus.SUCCEEDED") == 2
    assert stat.S_IMODE((Path(env["HOME"]) / ".ray" / "auth_token").stat().st_mode) == 0o600
    # Without the token nobody starts anything there.
    (address,) = re.findall(r"RAY_API_SERVER_ADDRESS=(\S+)", text)
    done = run(f"python jobs/pipeline.py --pipeline.address {address}", env)
    assert done.returncode == 2, done.stdout
    assert f"the job server at {address} wants its token" in done.stdout
