"""The claims of docs/security.md that no other test makes."""

import ast
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors import SafetensorError

from pipeline import artifacts
from pipeline.config import DataSection, SourceSection
from pipeline.config_checks import check_config
from pipeline.config_file import parse_config
from pipeline.errors import ArtifactError, ConfigError, DataError
from pipeline.sources import Source, open_source
from weft.models import load_denoiser, load_tokenizer
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


def test_a_local_ray_listens_on_this_machine_alone_and_hides_its_token(tmp_path: Path) -> None:
    hidden = ("RAY_ADDRESS", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "RAY_AUTH_MODE")
    env = {key: value for key, value in os.environ.items() if key not in hidden}
    env["HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", LISTENING],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) > 5  # GCS, raylet, agents, dashboard, workers
    assert {address.removeprefix("::ffff:") for address in found} <= {"127.0.0.1", "::1"}
    # By default every request needs the token, which no other user of the machine can read.
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a file, by the text of what is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(n.func), n) for n in ast.walk(tree) if isinstance(n, ast.Call)]


def keyword(call: ast.Call, name: str) -> str:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), "")


def imports(path: Path) -> set[str]:
    """The top-level packages that a file imports from anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    names += [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_code_from_outside(path: Path) -> None:
    assert not imports(path) & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    for name, call in calls(path):
        last = name.rpartition(".")[2]
        assert name not in ("eval", "exec", "compile"), name
        assert last not in ("system", "popen", "read_pickle", "__import__"), name
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
        {"data": {"sources": [{"kind": "files", "path": "https://h/x?X-Amz-Signature=SECRET"}]}},
        {"data": {"sources": [{"kind": "files", "path": "https://h/x?a=1&sig=SECRET&b=2"}]}},
        {"data": {"sources": [{"kind": "files", "path": "https://h/x?private_token=SECRET"}]}},
    ],
)
def test_an_address_with_credentials_is_refused_without_repeating_them(values: dict) -> None:
    with pytest.raises(ConfigError, match="without credentials") as caught:
        check_config(parse_config(values, where="test"))
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "line", "is_refused"),
    [
        ("env", "WANDB_API_KEY = 'SECRET'", True),
        ("env", "HF_TOKEN = 'SECRET'", True),
        ("env", "AWS_ACCESS_KEY_ID = 'SECRET'", True),
        ("env", "DB_PASSWORD = 'SECRET'", True),
        ("runtime_env", "env_vars.HF_TOKEN = 'SECRET'", True),
        ("runtime_env", "env_vars = { my-secret = 'SECRET' }", True),
        ("env", "PGPASSWORD = 'SECRET'", True),
        ("env", "WANDB_APIKEY = 'SECRET'", True),
        ("env", "GITHUB_PAT = 'SECRET'", True),
        ("env", "HF_TOKEN = ''", False),
        ("env", "RAY_TLS_SERVER_KEY = '/a/file'", False),
        ("env", "AWS_KMS_KEY_ID = 'alias'", False),
        ("env", "PAD_TOKEN = '<pad>'", False),
        ("env", "HF_HUB_DISABLE_IMPLICIT_TOKEN = '1'", False),
        ("env", "HF_TOKEN = '1SECRET'", True),
        ("env", "RAY_AUTH_TOKEN_PATH = '/a/file'", False),
        ("env", "TOKENIZERS_PARALLELISM = 'false'", False),
        ("runtime_env", "pip = ['keyring']", False),
    ],
)
def test_secrets_of_jobs_are_refused_without_repeating_them(
    key: str, line: str, is_refused: bool
) -> None:
    config = parse_config({"pipeline": {"jobs": [{"stage": "train", key: [line]}]}}, where="test")
    if not is_refused:
        check_config(config)
        return
    with pytest.raises(ConfigError, match=rf"jobs\[0\].{key}: wanted no secrets") as caught:
        check_config(config)
    assert "SECRET" not in str(caught.value)


def archive(path: Path, kind: str, members: list[str]) -> None:
    """An archive of files with one row each."""
    text = json.dumps({"question": "2+2?", "answer": "#### 4"}).encode() + b"\n"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as made:
            for member in members:
                made.writestr(member, text)
        return
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            entry = tarfile.TarInfo(member)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where ``datasets`` writes."""
    for key in ("HF_DATASETS_CACHE", "DOWNLOADED_DATASETS_PATH", "EXTRACTED_DATASETS_PATH"):
        monkeypatch.setattr(datasets.config, key, tmp_path / "cache" / key.lower())
    return tmp_path / "cache"


def hub(folder: Path, *, streaming: bool) -> Source:
    section = SourceSection(kind="hub", path=str(folder), format="gsm8k", streaming=streaming)
    return open_source(DataSection(), section)


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
@pytest.mark.parametrize("streaming", [False, True])
def test_an_archive_of_a_data_set_is_refused(
    kind: str, streaming: bool, cache: Path, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data" / f"train.{kind}", kind, ["train.jsonl"])
    with pytest.raises(DataError, match="is an archive, and none is unpacked"):
        hub(tmp_path / "data", streaming=streaming).survey()
    assert not list(cache.rglob("*.jsonl"))


def test_a_file_within_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    archive(tmp_path / "data" / "all.zip", "zip", ["train.jsonl"])
    (tmp_path / "data" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n"
        f"  data_files: zip://train.jsonl::{tmp_path}/data/all.zip\n---\n"
    )
    with pytest.raises(DataError, match=r"all\.zip is an archive"):
        hub(tmp_path / "data", streaming=True).survey()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_an_archive_under_another_name_leads_nowhere_outside(
    kind: str, cache: Path, tmp_path: Path
) -> None:
    """``datasets`` looks into files, and unpacks them in its cache."""
    (tmp_path / "data").mkdir()
    outside = ["../escaped.jsonl", f"{'../' * 20}{tmp_path}/escaped.jsonl", f"{tmp_path}/escaped"]
    archive(tmp_path / "data" / "train.jsonl", kind, ["rows.jsonl", *outside])
    (part,) = hub(tmp_path / "data", streaming=False).survey()
    assert part.num_rows == 1  # what leads outside is left out
    assert list(tmp_path.rglob("escaped*")) == []


class Bomb:
    """Leaves a file wherever it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def hostile(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint with code of its own, for every class that transformers would load from it."""
    folder = tmp_path / "hostile"
    shutil.copytree(tiny_checkpoint, folder)
    code = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("configuration_x.py", "modeling_x.py", "tokenization_x.py", "__init__.py"):
        (folder / name).write_text(code)
    classes = {
        "config.json": {"AutoConfig": "configuration_x.X", "AutoModel": "modeling_x.X"},
        "tokenizer_config.json": {"AutoTokenizer": ["tokenization_x.X", "tokenization_x.X"]},
    }
    for name, auto_map in classes.items():
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | {"auto_map": auto_map}))
    return folder


def test_code_of_a_checkpoint_is_not_run(hostile: Path) -> None:
    assert load_denoiser(str(hostile)) is not None
    assert load_tokenizer(str(hostile)).mask_token_id is not None
    assert not (hostile.parent / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_not_read_under_any_name(name: str, hostile: Path) -> None:
    (hostile / "model.safetensors").unlink()
    torch.save({"w": Bomb(hostile.parent / "ran")}, hostile / name)
    with pytest.raises((OSError, ValueError, SafetensorError)):
        load_denoiser(str(hostile))
    assert not (hostile.parent / "ran").exists()
