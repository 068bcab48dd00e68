"""The claims of docs/security.md that no other test makes."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import artifacts
from pipeline.config_checks import check_config
from pipeline.config_file import parse_config
from pipeline.errors import ArtifactError, ConfigError
from weft.models.weights import weight_files

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [p for name in ("weft", "pipeline", "jobs") for p in (ROOT / name).rglob("*.py")]

LISTENING = """
import json, os, psutil
from pipeline.cluster import ray_session

with ray_session(dashboard=True):
    import ray

    @ray.remote
    class Actor:
        def here(self):
            return 1

    actor = Actor.remote()
    ray.get(actor.here.remote())
    me = psutil.Process()
    family = {me.pid, *(child.pid for child in me.children(recursive=True))}
    found = [c.laddr.ip for c in psutil.net_connections("tcp")
             if c.status == "LISTEN" and c.pid in family]
print(json.dumps(found))
"""


def test_a_local_ray_listens_on_this_machine_alone() -> None:
    hidden = ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        env=env | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 5  # GCS, raylet, agents, dashboard, workers
    assert {address.removeprefix("::ffff:") for address in found} <= {"127.0.0.1", "::1"}


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a file, by the text of what is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_outside(path: Path) -> None:
    for name, call in calls(path):
        last = name.rpartition(".")[2]
        assert name not in ("eval", "exec", "compile"), name
        assert not name.startswith(("pickle.", "cloudpickle.", "joblib.", "dill.")), name
        assert last != "system", name
        if name == "torch.load":
            assert keyword(call, "weights_only") == "True"
        assert keyword(call, "trust_remote_code") in ("", "False"), name
        assert keyword(call, "allow_pickle") in ("", "False"), name
        assert keyword(call, "shell") in ("", "False"), name
        if name.startswith("yaml."):
            assert last in ("safe_load", "safe_load_all", "safe_dump"), name


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b"])
def test_a_manifest_that_leads_out_of_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    entry = {"sha256": "0", "num_bytes": 1}
    manifest = {"stage": "prepare", "config": {}, "inputs": {}, "files": {name: entry}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 1}))
    with pytest.raises(ArtifactError, match="cannot be trusted"):
        artifacts.read_manifest(str(tmp_path))


def test_an_index_of_weights_does_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    index = {"weight_map": {"w": "../../secret.safetensors", "v": "/etc/other.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(tmp_path) == ["other.safetensors", "secret.safetensors"]


NAMES = [
    *("train.name", "evaluate.name", "merge.name", "reference.name", "tune.name", "traces.name"),
    *("tune.arms.0.name", "pipeline.jobs.0.name"),
]


@pytest.mark.parametrize("key", NAMES)
@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden"])
def test_names_of_artifacts_are_folder_names(key: str, name: str) -> None:
    section, *path = key.split(".")
    inner = {path[-1]: name}
    if path[0] == "jobs":
        inner["stage"] = "train"
    values = {section: {path[0]: [inner]} if len(path) > 1 else inner}
    with pytest.raises(ConfigError, match=rf"{path[-1]}: wanted a folder name"):
        check_config(parse_config(values, where="test"))


@pytest.mark.parametrize(
    "values",
    [
        {"run": {"output_dir": "s3://KEY:SECRET@bucket/run"}},
        {"data": {"sources": [{"kind": "files", "path": "https://me:SECRET@host/x"}]}},
        {"model": {"path": "s3://KEY:SECRET@bucket/model"}},
        {"pipeline": {"jobs": [{"stage": "train", "env": ["A = 'http://me:SECRET@host'"]}]}},
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_them(values: dict) -> None:
    with pytest.raises(ConfigError, match="without credentials") as caught:
        check_config(parse_config(values, where="test"))
    assert "SECRET" not in str(caught.value)
