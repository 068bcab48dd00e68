"""Whether cluster files can work, without any cloud: ``python -m scripts.check_deploy PATH ...``.

Files of the Ray cluster launcher against Ray's own schema and validation, KubeRay manifests (a
folder with a ``kustomization.yaml``) against the part of their schema that is used here, and both
against what adds up: limits, sizes of machines, versions, who may reach what. Values that are still
to be edited are listed with ``--ready``.
"""

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import ray
import tyro
import yaml
from googleapiclient.discovery_cache import get_static_doc

from scripts.kuberay import kuberay_problems, load_yaml, rendered
from scripts.machines import MACHINES, ray_version

PLACEHOLDERS = (
    "0123456789abcdef0",
    "my-project",
    "my-bucket",
    "123456789012",
    "registry.example.com",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is checked."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Files of the cluster launcher, and folders with a kustomization.yaml."""
    ready: bool = False
    """Also list what is still to be edited."""


def main(settings: Settings) -> None:
    """Print what is wrong, and end with 1 where something is."""
    found = []
    for path in settings.paths:
        check = kuberay_problems if path.is_dir() else launcher_problems
        found += [f"{path}: {problem}" for problem in check(path)]
        if settings.ready:
            found += [f"{path}: {left}" for left in unedited(path)]
    print("\n".join(found) or f"{len(settings.paths)} checked, nothing found")
    sys.exit(1 if found else 0)


def launcher_problems(path: Path) -> Iterator[str]:
    """What is wrong with a file of Ray's cluster launcher."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load_yaml(path)
    schema = json.loads(
        (Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8")
    )
    for error in jsonschema.Draft7Validator(schema).iter_errors(config):
        yield f"{error.json_path}: {error.message}"
    try:
        validate_config(prepare_config(config))
    except (ValueError, KeyError, RuntimeError, jsonschema.ValidationError) as error:
        yield f"ray refuses it: {error}"
    yield from _limits(config)
    yield from _privacy(config)
    if config["provider"]["type"] == "gcp":
        yield from _google(config)
    image, version = config.get("docker", {}).get("image", ""), ray_version()
    if image.startswith("rayproject/ray:") and not image.startswith(f"rayproject/ray:{version}-"):
        yield f"docker.image: wanted Ray {version} as in constraints.txt, got {image}"


def _limits(config: dict[str, Any]) -> Iterator[str]:
    types = config["available_node_types"]
    head = config["head_node_type"]
    workers = {name: kind for name, kind in types.items() if name != head}
    total = sum(kind.get("max_workers", 0) for kind in workers.values())
    if config["max_workers"] != total:
        yield f"max_workers: wanted {total}, the sum of the types' own, got {config['max_workers']}"
    if types[head]["resources"].get("CPU") != 0:
        yield f"{head}: wanted no CPUs to give, or actors slow the head down"
    for name, kind in types.items():
        machine = kind["node_config"].get("InstanceType", kind["node_config"].get("machineType"))
        has, given = MACHINES.get(machine), kind["resources"]
        if has is None:
            yield f"{name}: {machine} is not in the table of scripts/machines.py; add it there"
        elif name != head and (given["CPU"], given.get("GPU", 0)) != (has.cpus, has.gpus):
            yield f"{name}: {machine} has {has.cpus} CPUs and {has.gpus} GPUs, got {given}"
        if kind.get("min_workers", 0) > kind.get("max_workers", 0):
            yield f"{name}: min_workers above max_workers"


def _privacy(config: dict[str, Any]) -> Iterator[str]:
    start = "\n".join(config["head_start_ray_commands"])
    if "--dashboard-host=127.0.0.1" not in start:
        yield "head_start_ray_commands: the dashboard has to listen on 127.0.0.1 alone"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        if not any(
            "RAY_AUTH_MODE=token ray start" in re.sub(r"RAY_(?!AUTH)\w+=\S+ ", "", line)
            for line in config[key]
        ):
            yield f"{key}: wanted ray start with RAY_AUTH_MODE=token"
    if not _is_aws(config["provider"]):
        return
    if "security_group" in config["provider"]:
        yield "provider.security_group: Ray opens SSH to everybody in it; make a group of your own"
    for name, kind in config["available_node_types"].items():
        for key in ("SecurityGroupIds", "ImageId", "IamInstanceProfile"):
            if key not in kind["node_config"]:
                yield f"{name}: wanted {key}; what Ray takes without it is open, old or too strong"


def _google(config: dict[str, Any]) -> Iterator[str]:
    """What Google's own description of a machine says, and what its GPU machines cannot have."""
    schemas = json.loads(get_static_doc("compute", "v1"))["schemas"]
    zone = config["provider"]["availability_zone"]
    for name, kind in config["available_node_types"].items():
        node = dict(kind["node_config"])
        node.pop("sourceInstanceTemplate", None)  # Ray's own key
        machine = node.get("machineType", "")
        yield from _unknown_keys(node, {"$ref": "Instance"}, schemas, name)
        for disk in (d for d in node.get("disks", []) if "initializeParams" in d):
            disk_type = disk["initializeParams"].get("diskType", "pd-standard")
            if disk_type.endswith("pd-standard") and machine.startswith("a3-"):
                yield f"{name}: {machine} takes no pd-standard disks; set diskType"
            if "/" in disk_type and f"zones/{zone}/" not in disk_type:
                yield f"{name}: diskType: wanted one of zone {zone}, got {disk_type}"


def _unknown_keys(
    value: Any, schema: dict[str, Any], schemas: dict[str, Any], where: str
) -> Iterator[str]:
    """Keys that a schema of a Google API does not have."""
    schema = schemas[schema["$ref"]] if "$ref" in schema else schema
    if isinstance(value, list):
        for number, one in enumerate(value):
            yield from _unknown_keys(one, schema.get("items", {}), schemas, f"{where}[{number}]")
    elif isinstance(value, dict) and "properties" in schema:
        for key, inner in value.items():
            if key in schema["properties"]:
                known = schema["properties"][key]
                yield from _unknown_keys(inner, known, schemas, f"{where}.{key}")
            else:
                yield f"{where}: a machine of Google Cloud has no {key}"


def _is_aws(provider: dict[str, Any]) -> bool:
    return provider["type"] == "aws" or str(provider.get("module", "")).startswith("pipeline.aws.")


def unedited(path: Path) -> Iterator[str]:
    """Values that stand for one's own."""
    if path.is_dir():
        texts = {m["kind"]: yaml.safe_dump(m, width=1000) for m in rendered(path)}
    else:
        texts = {path.name: path.read_text(encoding="utf-8")}
    for name, text in texts.items():
        for line in text.splitlines():
            if any(word in line for word in PLACEHOLDERS) and not line.lstrip().startswith("#"):
                yield f"{name}: still to be edited: {line.strip()}"


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
