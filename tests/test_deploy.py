"""cluster.yaml and deploy/, against Ray's own code and the schema of KubeRay, without any cloud."""

import json
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import moto
import moto.core
import pytest
import yaml
from botocore.exceptions import ClientError
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_CLUSTER_NAME

from pipeline.aws import SpotFirst
from pipeline.config_checks import check_config
from pipeline.config_file import load_config
from scripts.check_deploy import launcher_problems, unedited
from scripts.kuberay import kuberay_problems, rendered
from scripts.kuberay_schemas import SCHEMAS

ROOT = Path(__file__).resolve().parent.parent
LAUNCHER = [ROOT / "cluster.yaml", ROOT / "deploy" / "cluster.gcp.yaml"]
KUBERAY = ROOT / "deploy" / "kuberay"
OVERLAYS = sorted((KUBERAY / "overlays").iterdir())
GPU_TYPES = ("gpu_on_demand", "gpu_spot")


@pytest.mark.parametrize("path", LAUNCHER, ids=lambda path: path.name)
def test_ray_accepts_the_file_and_its_limits_add_up(path: Path) -> None:
    assert list(launcher_problems(path)) == []


@pytest.mark.parametrize("folder", [KUBERAY / "base", *OVERLAYS], ids=lambda path: path.name)
def test_manifests_fit_their_schema(folder: Path) -> None:
    assert list(kuberay_problems(folder)) == []


def test_every_component_is_used_by_some_overlay_or_fits_one(tmp_path: Path) -> None:
    copy = tmp_path / "kuberay"
    shutil.copytree(KUBERAY, copy)
    for component in sorted((copy / "components").iterdir()):
        overlay = copy / "overlays" / f"only-{component.name}"
        overlay.mkdir()
        text = f"resources: [../../base]\ncomponents: [../../components/{component.name}]\n"
        (overlay / "kustomization.yaml").write_text(text)
        assert list(kuberay_problems(overlay)) == [], component.name


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl")
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_the_overlays_are_what_kustomize_makes_of_them(folder: Path) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True
    ).stdout

    def by_name(manifests: list) -> dict:
        return {(m["kind"], m["metadata"]["name"]): m for m in manifests}

    assert by_name(rendered(folder)) == by_name(list(yaml.safe_load_all(made)))


def test_there_is_a_job_for_each_stage_whose_entrypoint_exists() -> None:
    import jsonschema

    stages = set()
    for path in sorted((KUBERAY / "base" / "jobs").iterdir()):
        manifest = yaml.safe_load(path.read_text())
        jsonschema.validate(manifest, SCHEMAS["RayJob"])
        python, script, *_ = manifest["spec"]["entrypoint"].split()
        assert python == "python"
        assert (ROOT / "jobs" / Path(script).name).is_file()
        assert manifest["spec"]["clusterSelector"] == {"ray.io/cluster": "weft"}
        stages.add(path.stem)
    assert stages >= {"prepare", "reference", "train", "tune", "evaluate", "report", "pipeline"}


def test_the_run_of_the_manifests_is_a_configuration() -> None:
    check_config(load_config(KUBERAY / "base" / "run.toml"))


def test_an_overlay_sets_image_gpu_and_storage() -> None:
    manifests = {m["kind"]: m for m in rendered(KUBERAY / "overlays" / "h100-s3")}
    groups = manifests["RayCluster"]["spec"]["workerGroupSpecs"]
    assert [g["groupName"] for g in groups] == ["cpu", "gpu"]
    pod = groups[1]["template"]["spec"]
    assert "NVIDIA-H100-80GB-HBM3" in str(pod["affinity"])
    assert pod["containers"][0]["image"].startswith("registry.example.com/weft:")
    assert "eks.amazonaws.com/role-arn" in manifests["ServiceAccount"]["metadata"]["annotations"]


@pytest.fixture
def spot_first(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SpotFirst, dict[str, Any]]]:
    """The provider of cluster.yaml in an imagined AWS, and the GPU machines that it asks for."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    with moto.mock_aws():
        config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
        assert config["provider"]["module"] == f"{SpotFirst.__module__}.{SpotFirst.__name__}"
        client = boto3.client("ec2", region_name=config["provider"]["region"])
        subnets = [s["SubnetId"] for s in client.describe_subnets()["Subnets"]]
        image = client.describe_images()["Images"][0]["ImageId"]
        asked = config["available_node_types"]["gpu"]["node_config"]
        asked = asked | {"ImageId": image, "SubnetIds": subnets, "SecurityGroupIds": []}
        del asked["IamInstanceProfile"]  # which a real account has
        provider = config["provider"] | {"aws_credentials": role_of("weft-head")}
        yield SpotFirst(provider, "weft"), asked


def role_of(name: str) -> dict[str, str]:
    """Credentials of a role with the policy of deploy/aws."""
    folder = ROOT / "deploy" / "aws"
    policy = json.loads((folder / f"{name}.json").read_text())
    for statement in policy["Statement"]:
        if statement["Action"][0].startswith("ec2:"):
            statement["Resource"] = "*"  # moto knows no addresses of machines
    iam, trust = boto3.client("iam"), (folder / "trust.json").read_text()
    role = iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)["Role"]["Arn"]
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
    found = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName=name)["Credentials"]
    return {
        "aws_access_key_id": found["AccessKeyId"],
        "aws_secret_access_key": found["SecretAccessKey"],
        "aws_session_token": found["SessionToken"],
    }


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (None, ["spot"]),
        ("InsufficientInstanceCapacity", [None]),
        ("Unsupported", [None]),  # what the last zone says may be this
        ("UnauthorizedOperation", []),
        ("AuthFailure.ServiceLinkedRoleCreationNotPermitted", []),
    ],
)
def test_on_aws_gpus_are_spot_or_on_demand_where_those_are_refused(
    spot_first: tuple[SpotFirst, dict[str, Any]],
    code: str | None,
    kinds: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, asked = spot_first
    create = provider.ec2_fail_fast.create_instances

    def refuse(**request: Any) -> Any:
        if code and "InstanceMarketOptions" in request:
            raise ClientError({"Error": {"Code": code, "Message": "no"}}, "RunInstances")
        return create(**request)

    monkeypatch.setattr(provider.ec2_fail_fast, "create_instances", refuse)
    if not kinds:
        with pytest.raises(NodeLaunchException, match=str(code)):
            provider.create_node(asked, {"ray-node-type": "worker"}, 1)
        return
    made = provider.create_node(asked, {"ray-node-type": "worker"}, 1)
    assert [machine.instance_lifecycle for machine in made.values()] == kinds
    assert {machine.instance_type for machine in made.values()} == {"p5.48xlarge"}
    assert sorted(provider.non_terminated_nodes({})) == sorted(made)


def test_the_heads_role_may_do_what_ray_does(
    spot_first: tuple[SpotFirst, dict[str, Any]],
) -> None:
    provider, asked = spot_first

    @moto.core.set_initial_no_auth_action_count(0)
    def start_tag_and_stop() -> None:
        (machine,) = provider.create_node(asked, {"ray-node-type": "worker"}, 1)
        assert provider.non_terminated_nodes({}) == [machine]
        provider.set_node_tags(machine, {"ray-node-status": "up-to-date"})
        assert provider.non_terminated_nodes({"ray-node-status": "up-to-date"}) == [machine]
        provider.terminate_nodes([machine])
        assert provider.non_terminated_nodes({}) == []

    start_tag_and_stop()


def test_the_heads_role_is_of_this_cluster_and_passes_the_workers_role_alone() -> None:
    """What moto does not look at: conditions, and tags that come with a start."""
    text = (ROOT / "deploy" / "aws" / "weft-head.json").read_text()
    statements = {s["Sid"]: s for s in json.loads(text)["Statement"]}
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    assert statements["TagThemAtTheirStart"]["Action"] == "ec2:CreateTags"
    at_start = statements["TagThemAtTheirStart"]["Condition"]["StringEquals"]
    assert at_start == {"ec2:CreateAction": "RunInstances"}
    own = statements["TagAndStopThoseOfThisCluster"]["Condition"]["StringEquals"]
    assert own == {f"ec2:ResourceTag/{TAG_RAY_CLUSTER_NAME}": config["cluster_name"]}
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"]
        for name, kind in config["available_node_types"].items()
    }
    assert profiles.pop(config["head_node_type"]) == "weft-head"
    (workers,) = {*profiles.values()}
    passed = statements["GiveThemTheirRole"]
    assert (passed["Action"], passed["Resource"]) == (
        "iam:PassRole",
        f"arn:aws:iam::*:role/{workers}",
    )


def test_the_workers_role_may_use_its_bucket_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with moto.mock_aws():
        for bucket in ("my-bucket", "other"):
            boto3.client("s3").create_bucket(Bucket=bucket)
        client = boto3.client("s3", **role_of("weft-artifacts"))

        @moto.core.set_initial_no_auth_action_count(0)
        def use_it() -> None:
            client.put_object(Bucket="my-bucket", Key="run/a", Body=b"a")
            assert client.get_object(Bucket="my-bucket", Key="run/a")["Body"].read() == b"a"
            assert client.list_objects_v2(Bucket="my-bucket")["KeyCount"] == 1
            part = client.create_multipart_upload(Bucket="my-bucket", Key="run/b")
            client.abort_multipart_upload(
                Bucket="my-bucket", Key="run/b", UploadId=part["UploadId"]
            )
            client.delete_object(Bucket="my-bucket", Key="run/a")
            with pytest.raises(ClientError, match="AccessDenied"):
                client.put_object(Bucket="other", Key="run/a", Body=b"a")

        use_it()


@pytest.mark.parametrize("is_timed_out", [False, True])
def test_on_gcp_gpus_are_spot_first_and_on_demand_while_those_do_not_join(
    is_timed_out: bool,
) -> None:
    """Ray's own monitor and scheduler, asked for three trainings of eight GPUs."""
    from ray.autoscaler._private.util import prepare_config
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
    from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
        CloudResourceMonitor,
    )
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

    monitor = CloudResourceMonitor()
    if is_timed_out:
        status = Instance.ALLOCATION_TIMEOUT
        monitor.notify([InstanceUpdateEvent(instance_type="gpu_spot", new_instance_status=status)])
    text = (ROOT / "deploy" / "cluster.gcp.yaml").read_text()
    values = yaml.safe_load(text) | {"file_mounts": {}}  # would be read, and hashed
    config = AutoscalingConfig(prepare_config(values))
    workers = [ResourceRequestUtil.make({"GPU": 1, "CPU": 8})] * 24
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=ResourceRequestUtil.group_by_count(workers),
            cloud_resource_availabilities=monitor.get_resource_availabilities(),
            recoverable_resource_availabilities=(monitor.get_recoverable_resource_availabilities()),
        )
    )
    launched = {r.instance_type: r.count for r in reply.to_launch if r.instance_type in GPU_TYPES}
    assert launched == {"gpu_on_demand" if is_timed_out else "gpu_spot": 3}
    assert reply.infeasible_resource_requests == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_workers: 16", "max_workers: 10", "the sum of the types"),
        ('{ "CPU": 192, "GPU": 8 }', '{ "CPU": 64, "GPU": 8 }', "192 CPUs and 8 GPUs"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "127.0.0.1 alone"),
        ("RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "RAY_AUTH_MODE=token"),
        (
            "provider:\n",
            "provider:\n  security_group: { GroupName: weft }\n",
            "opens SSH to everybody",
        ),
        ("      SecurityGroupIds: *group\n", "", "wanted SecurityGroupIds"),
        ("      ImageId: *image\n", "", "wanted ImageId"),
        ("ray:2.60.0", "ray:2.50.0", "wanted Ray 2.60.0"),
        ('"CPU": 0, "head"', '"CPU": 8, "head"', "no CPUs to give"),
        ("min_workers: 0", "min_worker: 0", "min_worker"),
        ("m7i.4xlarge", "m7i.huge", "not in the table"),
    ],
)
def test_what_cannot_work_or_is_open_is_named(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    check_named(LAUNCHER[0], old, new, said, tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("diskType: zones/us-central1-a/diskTypes/pd-balanced", "", "takes no pd-standard"),
        ("zones/us-central1-a/diskTypes", "zones/us-west4-a/diskTypes", "wanted one of zone"),
        ("diskSizeGb", "diskSizeGB", "has no diskSizeGB"),
        ("instanceTerminationAction", "instanceTerminateAction", "no instanceTerminateAction"),
    ],
)
def test_what_google_would_refuse_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    check_named(LAUNCHER[1], old, new, said, tmp_path)


def check_named(file: Path, old: str, new: str, said: str, tmp_path: Path) -> None:
    """A change of a launcher file is found."""
    text = file.read_text()
    assert old in text
    path = tmp_path / "cluster.yaml"
    path.write_text(text.replace(old, new))
    assert any(said in problem for problem in launcher_problems(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("maxReplicas: 4", "maxReplica: 4", "maxReplica"),
        ('rayVersion: "2.60.0"', 'rayVersion: "2.50.0"', "rayVersion"),
        ("configMap: { name: weft-config }", "configMap: { name: other }", "no ConfigMap other"),
        ("name: shared-memory, mountPath", "name: shm, mountPath", "which is no volume"),
        ('limits: { cpu: "15", memory: 52Gi }', 'limits: { cpu: "8", memory: 52Gi }', "differ"),
        ("serviceAccountName: weft", "serviceAccountName: x", "no x among"),
        ('cpu: "88"', 'cpu: "208"', "does not fit on"),
        ("memory: 52Gi", "memory: 64Gi", "does not fit on"),
        ("mode: token", "mode: disabled", "wanted mode: token"),
        ("  authOptions:\n    mode: token\n", "", "wanted mode: token"),
        ("serviceType: ClusterIP", "serviceType: LoadBalancer", "wanted ClusterIP"),
        ("memory: 52Gi", "memory: 53687091200Ki", "does not fit on"),
        ('cpu: "15"', "cpu: 15900m", "does not fit on"),
        ('cpu: "15"', 'cpu: "many"', "does not match"),
        ("  name: weft\nspec", "  name: other\nspec", "wanted a NetworkPolicy"),
    ],
)
def test_a_manifest_that_kubernetes_would_refuse_is_named(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    copy = tmp_path / "base"
    shutil.copytree(KUBERAY / "base", copy)
    path = copy / "cluster.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(said in problem for problem in kuberay_problems(copy))


@pytest.mark.parametrize(
    "rule", ["{}", "from: []", "from: [{ namespaceSelector: {} }]", "ports: [{ port: 8265 }]"]
)
def test_a_policy_that_lets_everybody_in_is_named(rule: str, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    shutil.copytree(KUBERAY / "base", copy)
    path = copy / "network_policy.yaml"
    path.write_text(
        path.read_text().replace("    - from:", f"    - {{ {rule.strip('{}')} }}\n    - from:")
    )
    assert any("who may come in" in problem for problem in kuberay_problems(copy))


def test_a_pod_that_fills_a_machine_of_its_overlay_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "kuberay"
    shutil.copytree(KUBERAY, copy)
    path = copy / "base" / "cluster.yaml"
    path.write_text(path.read_text().replace('cpu: "88"', 'cpu: "96"'))
    (problem,) = kuberay_problems(copy / "overlays" / "a100-gcs")
    assert "does not fit on p4de.24xlarge, a2-ultragpu-8g" in problem
    assert list(kuberay_problems(copy / "overlays" / "h100-s3")) == []


def test_what_is_to_be_edited_is_found() -> None:
    found = {path.name: " ".join(unedited(path)) for path in [*LAUNCHER, *OVERLAYS]}
    assert all("sg-0123" in text and "ami-0123" in text for text in [found["cluster.yaml"]])
    assert "my-project" in found["cluster.gcp.yaml"]
    for part in ("registry.example.com", "my-bucket", "123456789012"):
        assert part in found["h100-s3"]


def test_the_container_has_what_the_jobs_need() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text()
    assert "--constraint constraints.txt" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    minimum = project["requires-python"].removeprefix(">=")
    assert f"FROM python:{minimum}-slim" in text
    for name in ("weft", "pipeline", "jobs", "configs"):
        assert f"COPY {name} ./{name}" in text
