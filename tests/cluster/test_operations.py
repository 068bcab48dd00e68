"""The local commands of docs/operations.md, one after the other, as they stand there."""

import os
import re
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


def commands() -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    marker = f"<!-- executed by {Path(__file__).relative_to(ROOT)} -->"
    assert text.count(marker) == 1
    block = re.search(r"```bash\n(.*?)```", text[text.index(marker) :], re.DOTALL)
    assert block is not None
    return block[1].splitlines()


@pytest.fixture
def env(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Of a Ray with a folder of its own, all of whose processes end with the test."""
    folder = tmp_path_factory.mktemp("ray")
    hidden = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    own = {key: value for key, value in os.environ.items() if key not in hidden}
    own |= {"RAY_TMPDIR": str(folder), "RAY_AUTH_MODE": "disabled", "WEFT_HOME": str(folder)}
    own["PATH"] = f"{Path(os.sys.executable).parent}:{own['PATH']}"  # type: ignore[attr-defined]
    yield own
    end_processes_of(folder)


def test_every_command_does_what_the_page_says(env: dict[str, str], tmp_path: Path) -> None:
    ports, outputs = {port: str(free_port()) for port in PORTS}, dict[str, str]()
    for line in commands():
        command = line.replace("$PWD/runs", str(tmp_path))
        for port, free in ports.items():
            command = command.replace(port, free)
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        outputs[line.partition(" jobs/")[0]] = done.stdout
    assert (tmp_path / "first" / "entropies" / "manifest.json").is_file()
    (listed,) = [text for line, text in outputs.items() if "ray job list" in line]
    assert listed.count("status=<JobStatus.SUCCEEDED") == 2
