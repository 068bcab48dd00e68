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

import jsonpatch
import jsonschema
import ray
import tyro
import yaml

ROOT = Path(__file__).resolve().parent.parent
MACHINES = {
    "m7i.2xlarge": (8, 0),
    "m7i.4xlarge": (16, 0),
    "p4d.24xlarge": (96, 8),
    "p4de.24xlarge": (96, 8),
    "p5.48xlarge": (192, 8),
    "n2-standard-8": (8, 0),
    "n2-standard-16": (16, 0),
    "a2-ultragpu-8g": (96, 8),
    "a3-highgpu-8g": (208, 8),
}
"""CPUs and GPUs of machines."""
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

    config = _load(path)
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
    image = config.get("docker", {}).get("image", "")
    if image.startswith("rayproject/ray:") and not image.startswith(f"rayproject/ray:{_ray()}-"):
        yield f"docker.image: wanted Ray {_ray()} as in constraints.txt, got {image}"


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
        cpus, gpus = MACHINES.get(machine, (None, None))
        if cpus is None:
            yield f"{name}: {machine} is not in the table of this script; add its CPUs and GPUs"
        elif name != head and (kind["resources"]["CPU"], kind["resources"].get("GPU", 0)) != (
            cpus,
            gpus,
        ):
            yield f"{name}: {machine} has {cpus} CPUs and {gpus} GPUs, got {kind['resources']}"
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


def _is_aws(provider: dict[str, Any]) -> bool:
    return provider["type"] == "aws" or str(provider.get("module", "")).startswith("pipeline.aws.")


def rendered(folder: Path) -> list[dict[str, Any]]:
    """The manifests of a kustomization, its components' patches applied."""
    text = _load(folder / "kustomization.yaml")
    found: list[dict[str, Any]] = []
    for name in [*text.get("resources", []), *text.get("components", [])]:
        path = folder / name
        if not path.is_dir():
            found += [m for m in yaml.safe_load_all(path.read_text(encoding="utf-8")) if m]
            continue
        inner = _load(path / "kustomization.yaml")
        found += rendered(path)
        for patch in inner.get("patches", []):
            found = _patched(found, patch, path)
    for generator in text.get("configMapGenerator", []):
        data = {n: (folder / n).read_text(encoding="utf-8") for n in generator["files"]}
        meta = {"name": generator["name"]}
        found.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data})
    for image in text.get("images", []):
        for container in (c for m in found for c in _containers(m)):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return found


def _patched(
    manifests: list[dict[str, Any]], patch: dict[str, Any], where: Path
) -> list[dict[str, Any]]:
    target = patch["target"]
    hits = [
        k
        for k, m in enumerate(manifests)
        if m["kind"] == target["kind"] and m["metadata"].get("name") == target["name"]
    ]
    if not hits:
        raise ValueError(f"{where}: no {target['kind']} {target['name']} to patch")
    found = list(manifests)
    for k in hits:
        found[k] = jsonpatch.apply_patch(found[k], yaml.safe_load(patch["patch"]))
    return found


def kuberay_problems(folder: Path) -> Iterator[str]:
    """What is wrong with the manifests of a kustomization."""
    try:
        manifests = rendered(folder)
    except (OSError, ValueError, KeyError, jsonpatch.JsonPatchException) as error:
        yield str(error)
        return
    names = {(m["kind"], m["metadata"].get("name")) for m in manifests}
    for manifest in manifests:
        own = f"{manifest['kind']} {manifest['metadata'].get('name', '')}".strip()
        schema = SCHEMAS.get(manifest["kind"])
        if schema is None:
            yield f"{own}: no schema for this kind in this script"
            continue
        for error in jsonschema.Draft7Validator(schema).iter_errors(manifest):
            yield f"{own}: {error.json_path}: {error.message}"
        for problem in _pod_problems(manifest, names):
            yield f"{own}: {problem}"
        if manifest["kind"] == "RayCluster" and manifest["spec"]["rayVersion"] != _ray():
            yield f"{own}: rayVersion: wanted {_ray()} as in constraints.txt"


def _pod_problems(manifest: dict[str, Any], names: set[tuple[str, Any]]) -> Iterator[str]:
    for pod in _pods(manifest):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        account = ("ServiceAccount", pod.get("serviceAccountName"))
        if account not in names:
            yield f"serviceAccountName: no {account[1]} among the manifests"
        for volume in pod.get("volumes", []):
            wanted = ("ConfigMap", volume.get("configMap", {}).get("name"))
            if wanted[1] and wanted not in names:
                yield f"volumes: no ConfigMap {wanted[1]} among the manifests"
        for container in pod["containers"]:
            missing = {m["name"] for m in container.get("volumeMounts", [])} - volumes
            if missing:
                yield f"{container['name']}: mounts {', '.join(missing)}, which is no volume"
            resources = container["resources"]
            if resources["requests"] != resources["limits"]:
                yield f"{container['name']}: requests and limits differ; Ray counts the limits"


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


def _pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if manifest["kind"] == "RayCluster":
        groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
        yield from (group["template"]["spec"] for group in groups)


def _containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for pod in _pods(manifest):
        yield from pod["containers"]


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _ray() -> str:
    found = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    """A schema of an object with these keys and no others."""
    return {
        "type": "object",
        "required": list(required),
        "properties": required | optional,
        "additionalProperties": False,
    }


_TEXT, _NUMBER, _FLAG = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_ANY = {"type": "object"}


def _list(of: Any) -> dict[str, Any]:
    return {"type": "array", "items": of}


_META = _object({}, name=_TEXT, generateName=_TEXT, labels=_TEXTS, annotations=_TEXTS)
_QUANTITIES = _object({"requests": _TEXTS, "limits": _TEXTS})
_CONTAINER = _object(
    {"name": _TEXT, "image": _TEXT, "resources": _QUANTITIES},
    env=_list(_object({"name": _TEXT}, value=_TEXT, valueFrom=_ANY)),
    envFrom=_list(_object({"secretRef": _object({"name": _TEXT}, optional=_FLAG)})),
    securityContext=_ANY,
    volumeMounts=_list(_object({"name": _TEXT, "mountPath": _TEXT}, readOnly=_FLAG)),
    command=_list(_TEXT),
    args=_list(_TEXT),
)
_POD = _object(
    {"containers": {**_list(_CONTAINER), "minItems": 1}},
    serviceAccountName=_TEXT,
    automountServiceAccountToken=_FLAG,
    securityContext=_ANY,
    nodeSelector=_TEXTS,
    tolerations=_list(_ANY),
    volumes=_list(
        _object({"name": _TEXT}, configMap=_ANY, emptyDir=_ANY, persistentVolumeClaim=_ANY)
    ),
)
_TEMPLATE = _object({"spec": _POD}, metadata=_META)
_HEAD = _object({"rayStartParams": _TEXTS, "template": _TEMPLATE}, serviceType=_TEXT)
_WORKERS = _object(
    {
        "groupName": _TEXT,
        "minReplicas": _NUMBER,
        "maxReplicas": _NUMBER,
        "replicas": _NUMBER,
        "rayStartParams": _TEXTS,
        "template": _TEMPLATE,
    },
    idleTimeoutSeconds=_NUMBER,
)
_CLUSTER = _object(
    {"headGroupSpec": _HEAD, "rayVersion": _TEXT},
    workerGroupSpecs=_list(_WORKERS),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_object({}, version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=_NUMBER),
    authOptions=_object({"mode": {"enum": ["token", "disabled"]}}),
)
_JOB = _object(
    {"entrypoint": _TEXT},
    clusterSelector=_TEXTS,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    backoffLimit=_NUMBER,
    runtimeEnvYAML=_TEXT,
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    ttlSecondsAfterFinished=_NUMBER,
    suspend=_FLAG,
)


def _manifest(version: str, **parts: Any) -> dict[str, Any]:
    return _object({"apiVersion": {"const": version}, "kind": _TEXT, "metadata": _META}, **parts)


SCHEMAS = {
    "RayCluster": _manifest("ray.io/v1", spec=_CLUSTER),
    "RayJob": _manifest("ray.io/v1", spec=_JOB),
    "ServiceAccount": _manifest("v1", automountServiceAccountToken=_FLAG),
    "ConfigMap": _manifest("v1", data=_TEXTS),
    "NetworkPolicy": _manifest("networking.k8s.io/v1", spec=_ANY),
    "PersistentVolumeClaim": _manifest("v1", spec=_ANY),
}
"""The part of KubeRay's and Kubernetes' schemas that is used here, by kind."""


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
