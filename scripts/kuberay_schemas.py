"""The part of KubeRay's and Kubernetes' schemas that deploy/kuberay uses, by kind."""

from typing import Any


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
_QUANTITY = {"type": "string", "pattern": r"^[0-9.]+([MGT]i?|Ki|k|m)?$"}
_AMOUNTS = {"type": "object", "additionalProperties": _QUANTITY}
_QUANTITIES = _object({"requests": _AMOUNTS, "limits": _AMOUNTS})
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
    affinity=_object({"nodeAffinity": _ANY}),
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
