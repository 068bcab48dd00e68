"""Kustomizations with KubeRay's manifests: what they come to, and what is wrong with it.

Used by ``python -m scripts.check_deploy``.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import jsonschema
import yaml

from scripts.kuberay_schemas import SCHEMAS
from scripts.machines import MACHINES, Machine, ray_version


def rendered(folder: Path) -> list[dict[str, Any]]:
    """The manifests of a kustomization, its components' patches applied."""
    text = load_yaml(folder / "kustomization.yaml")
    found: list[dict[str, Any]] = []
    for name in [*text.get("resources", []), *text.get("components", [])]:
        path = folder / name
        if not path.is_dir():
            found += [m for m in yaml.safe_load_all(path.read_text(encoding="utf-8")) if m]
            continue
        inner = load_yaml(path / "kustomization.yaml")
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
        errors = list(jsonschema.Draft7Validator(schema).iter_errors(manifest))
        if errors:
            yield from (f"{own}: {error.json_path}: {error.message}" for error in errors)
            continue
        for problem in _pod_problems(manifest, names):
            yield f"{own}: {problem}"
        if manifest["kind"] == "RayCluster":
            for problem in _cluster_problems(manifest, manifests):
                yield f"{own}: {problem}"


def _cluster_problems(cluster: dict[str, Any], manifests: list[dict[str, Any]]) -> Iterator[str]:
    """Its version, who may reach it, and whether its pods fit on machines."""
    spec = cluster["spec"]
    if spec["rayVersion"] != ray_version():
        yield f"rayVersion: wanted {ray_version()} as in constraints.txt"
    if spec.get("authOptions", {}).get("mode") != "token":
        yield "authOptions: wanted mode: token, or whoever reaches the cluster can run code on it"
    if spec["headGroupSpec"].get("serviceType", "ClusterIP") != "ClusterIP":
        yield "headGroupSpec: serviceType: wanted ClusterIP, which only the cluster can reach"
    wanted = {"matchLabels": {"ray.io/cluster": cluster["metadata"]["name"]}}
    policies = [m["spec"] for m in manifests if m["kind"] == "NetworkPolicy"]
    own = [
        p for p in policies if p["podSelector"] == wanted and "Ingress" in p.get("policyTypes", [])
    ]
    if not own:
        yield "wanted a NetworkPolicy for what comes in to its pods"
    for rule in (rule for policy in own for rule in policy.get("ingress", [])):
        if not rule.get("from") or any(p.get("namespaceSelector") == {} for p in rule["from"]):
            yield f"NetworkPolicy: wanted a rule that names who may come in, got {rule}"
    for group in spec["workerGroupSpecs"]:
        for problem in _misfits(group["template"]["spec"]):
            yield f"{group['groupName']}: {problem}"


_UNITS = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
_UNITS |= {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_FREE = 0.95, 0.9
"""Of a machine's CPUs and memory, what Kubernetes leaves to pods, at least."""


def _misfits(pod: dict[str, Any]) -> Iterator[str]:
    """Machines that a pod may be put on and does not fit on."""
    wanted = pod["containers"][0]["resources"]["requests"]
    gpus = int(wanted.get("nvidia.com/gpu", 0))
    names = _instance_types(pod) or [n for n, m in MACHINES.items() if bool(m.gpus) == bool(gpus)]
    unknown = [name for name in names if name not in MACHINES]
    if unknown:
        yield f"{', '.join(unknown)}: not in the table of scripts/machines.py; add them there"
    small = [n for n in names if n in MACHINES and not _fits(wanted, gpus, MACHINES[n])]
    # Where no machines are named, one of them is enough.
    if small and (_instance_types(pod) or len(small) == len(names)):
        yield f"asks for {wanted}, which does not fit on {', '.join(small)}: nodes keep a part"


def _fits(wanted: dict[str, str], gpus: int, machine: Machine) -> bool:
    cpus, memory = _FREE[0] * machine.cpus, _FREE[1] * machine.memory_gib
    is_room = _quantity(wanted["cpu"]) <= cpus and _quantity(wanted["memory"]) <= memory * 2**30
    return is_room and gpus <= machine.gpus


def _quantity(text: str) -> float:
    """A quantity of Kubernetes, such as 500m, 2 or 64Gi."""
    number = re.match(r"[0-9.]+", text)
    assert number is not None, text
    return float(number[0]) * _UNITS[text[number.end() :]]


def _instance_types(pod: dict[str, Any]) -> list[str]:
    affinity = pod.get("affinity", {}).get("nodeAffinity", {})
    rules = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    return [
        name
        for term in rules.get("nodeSelectorTerms", [])
        for expression in term["matchExpressions"]
        if expression["key"] == "node.kubernetes.io/instance-type"
        if expression["operator"] == "In"
        for name in expression["values"]
    ]


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


def _pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if manifest["kind"] == "RayCluster":
        groups = [manifest["spec"]["headGroupSpec"], *manifest["spec"]["workerGroupSpecs"]]
        yield from (group["template"]["spec"] for group in groups)


def _containers(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for pod in _pods(manifest):
        yield from pod["containers"]


def load_yaml(path: Path) -> dict[str, Any]:
    """The one document of a YAML file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found
