"""The Kubernetes manifests, rendered by kubectl and read by what reads them in a cluster."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_folder import CLUSTER, IMAGE, one, ray_start_options, rendered

from raykd import __version__
from raykd.clusters.check import check_cluster
from raykd.clusters.quantity import quantity
from raykd.clusters.read import read_hardware

KUBERAY = CLUSTER / "kuberay"
CLUSTERS = ("sizes/small", "sizes/medium", "sizes/large", "gcs-fault-tolerance")
JOBS = ("rayjob", "kueue", "volcano")
FOLDERS = (*CLUSTERS, *JOBS)
PART_OF = {"app.kubernetes.io/part-of": "raykd"}


@cache
def manifests(folder: str) -> list[dict[str, Any]]:
    return rendered(folder)


def cluster_spec(folder: str) -> dict[str, Any]:
    if folder in JOBS:
        return one(manifests(folder), "RayJob")["spec"]["rayClusterSpec"]
    return one(manifests(folder), "RayCluster")["spec"]


def groups(folder: str) -> dict[str, dict[str, Any]]:
    return {each["groupName"]: each for each in cluster_spec(folder)["workerGroupSpecs"]}


def all_pods(folder: str) -> list[dict[str, Any]]:
    """The templates of every pod that these manifests lead to."""
    spec = cluster_spec(folder)
    pods = [spec["headGroupSpec"]["template"]]
    pods += [each["template"] for each in spec["workerGroupSpecs"]]
    if folder in JOBS:
        pods.append(one(manifests(folder), "RayJob")["spec"]["submitterPodTemplate"])
    pods += [
        each["spec"]["template"] for each in manifests(folder) if each["kind"] == "StatefulSet"
    ]
    return pods


def saved(folder: str, tmp_path: Path) -> Path:
    path = tmp_path / "rendered.yaml"
    path.write_text(yaml.safe_dump_all(manifests(folder)))
    return path


@pytest.mark.parametrize("folder", FOLDERS)
def test_raykd_check_has_nothing_to_fix(folder: str, tmp_path: Path) -> None:
    """KubeRay's schemas, roles, images, authentication and ports among them."""
    found = check_cluster(saved(folder, tmp_path))
    assert [each for each in found if each.level != "ok"] == []
    assert "schema" in {each.subject for each in found}


@pytest.mark.parametrize("folder", CLUSTERS)
def test_rays_autoscaler_reads_roles_and_time_outs(folder: str) -> None:
    """By the code that runs beside the head."""
    from ray.autoscaler._private.kuberay.autoscaling_config import (
        _derive_autoscaling_config_from_ray_cr,
    )
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    resource = copy.deepcopy(one(manifests(folder), "RayCluster"))
    resource["metadata"]["namespace"] = "default"
    assert resource["spec"]["autoscalerOptions"]["version"] == "v2"
    config = AutoscalingConfig(_derive_autoscaling_config_from_ray_cr(resource))
    types = config.get_node_type_configs()
    roles = {name: each.labels["raykd-role"] for name, each in types.items()}
    assert roles == {
        "headgroup": "head",
        "student": "student",
        "teacher": "teacher",
        "data": "data",
    }
    assert types["headgroup"].resources["CPU"] == 0
    student, teacher = types["student"], types["teacher"]
    assert student.min_worker_nodes == student.max_worker_nodes > 0
    assert teacher.min_worker_nodes == 0 < teacher.max_worker_nodes
    assert teacher.resources["GPU"] > 0
    assert "GPU" not in types["data"].resources
    assert teacher.idle_timeout_s == 600
    assert types["data"].idle_timeout_s == 120


def test_sizes_grow(tmp_path: Path) -> None:
    gpus = []
    for size in ("small", "medium", "large"):
        hardware = read_hardware(saved(f"sizes/{size}", tmp_path))
        gpus.append(
            [
                sum(each.gpus * each.max_nodes for each in hardware.of_role(role))
                for role in ("student", "teacher")
            ]
        )
    assert gpus == [[1, 1], [8, 32], [32, 256]]


@pytest.mark.parametrize("folder", FOLDERS)
def test_ray_start_takes_the_parameters(folder: str) -> None:
    spec = cluster_spec(folder)
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        parameters = group["rayStartParams"]
        ray_start_options([f"--{key}={value}" for key, value in parameters.items()])


@pytest.mark.parametrize("folder", FOLDERS)
def test_pods_are_not_root_and_wear_the_policys_label(folder: str) -> None:
    policy = one(manifests(folder), "NetworkPolicy")["spec"]
    assert policy["podSelector"]["matchLabels"] == PART_OF
    for pod in all_pods(folder):
        assert PART_OF.items() <= pod["metadata"]["labels"].items()
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("folder", FOLDERS)
def test_who_may_reach_the_pods(folder: str) -> None:
    """Raykd's own, on any port; KubeRay's operator, on the dashboard and the agents."""
    policy = one(manifests(folder), "NetworkPolicy")["spec"]
    own, operator = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": PART_OF}}]}
    assert [each["port"] for each in operator["ports"]] == [8265, 52365]
    assert operator["from"][0]["podSelector"]["matchLabels"]
    for service in (each for each in manifests(folder) if each["kind"] == "Service"):
        assert service["spec"]["type"] == "ClusterIP"


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_volume_and_secret_is_one_that_is_made(folder: str) -> None:
    claims = {
        each["metadata"]["name"]
        for each in manifests(folder)
        if each["kind"] == "PersistentVolumeClaim"
    }
    shared = 0
    for pod in all_pods(folder):
        for volume in pod["spec"].get("volumes", []):
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
                shared += 1
    assert shared == 4
    shown = {each["metadata"]["name"] for each in secrets()}
    assert cluster_spec(folder)["authOptions"]["secretName"] in shown
    for pod in all_pods(folder):
        for container in pod["spec"]["containers"]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef", {})
                assert reference.get("name", "raykd-redis") in shown | {"raykd-redis"}


def secrets() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((KUBERAY / "secret.example.yaml").read_text()))


def test_the_secrets_example_holds_none() -> None:
    assert [set(each) for each in secrets()] == [{"apiVersion", "kind", "metadata", "type"}] * 2


@pytest.mark.parametrize("folder", FOLDERS)
def test_images_are_of_this_version(folder: str) -> None:
    own = {
        container["image"]
        for pod in all_pods(folder)
        for container in pod["spec"]["containers"]
        if container["name"] != "redis"
    }
    assert own == {f"{IMAGE}:{__version__}"}


def test_one_line_changes_the_registry_everywhere(tmp_path: Path) -> None:
    """`images` of a size reaches the containers of a RayCluster, which kustomize does not know."""
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{_relative(KUBERAY / 'raycluster', tmp_path)}]\n"
        f"images: [{{name: {IMAGE}, newName: other.example.com/mine, newTag: 9.9.9}}]\n"
    )
    spec = one(rendered(str(tmp_path)), "RayCluster")["spec"]
    pods = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    images = {each["template"]["spec"]["containers"][0]["image"] for each in pods}
    assert images == {"other.example.com/mine:9.9.9"}


def _relative(path: Path, start: Path) -> str:
    import os

    return os.path.relpath(path, start)


class TestRayJob:
    def test_the_cluster_goes_after_the_job(self) -> None:
        spec = one(manifests("rayjob"), "RayJob")["spec"]
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["ttlSecondsAfterFinished"] > 0
        assert spec["backoffLimit"] > 0

    @pytest.mark.parametrize("folder", JOBS)
    def test_the_entrypoint_is_a_command_of_raykd(self, folder: str) -> None:
        """One that goes on where it was: a retry is the same command."""
        import typer

        from raykd.cli import app

        words = one(manifests(folder), "RayJob")["spec"]["entrypoint"].split()
        assert words[:2] == ["raykd", "run"]
        run = typer.main.get_command(app).commands["run"]
        options = run.make_context("run", words[2:]).params
        assert options["resume"] is True
        assert options["address"] == "auto"
        job = Path(options["job_file"]).relative_to("/opt/raykd")
        assert (CLUSTER.parent / job).is_file()


@pytest.mark.parametrize("folder", ["kueue", "volcano"])
class TestGang:
    def test_its_size_is_fixed(self, folder: str) -> None:
        spec = cluster_spec(folder)
        assert spec["enableInTreeAutoscaling"] is False
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"] > 0

    def test_its_queue_is_the_examples_and_has_room(self, folder: str) -> None:
        queues = list(yaml.safe_load_all((KUBERAY / folder / "queue.yaml").read_text()))
        labels = one(manifests(folder), "RayJob")["metadata"]["labels"]
        if folder == "kueue":
            local, wide = one(queues, "LocalQueue"), one(queues, "ClusterQueue")
            assert labels["kueue.x-k8s.io/queue-name"] == local["metadata"]["name"]
            assert local["spec"]["clusterQueue"] == wide["metadata"]["name"]
            (group,) = wide["spec"]["resourceGroups"]
            (flavor,) = group["flavors"]
            assert flavor["name"] == one(queues, "ResourceFlavor")["metadata"]["name"]
            room = {each["name"]: each["nominalQuota"] for each in flavor["resources"]}
            assert set(room) == set(group["coveredResources"])
            assert one(manifests(folder), "RayJob")["spec"]["suspend"] is True
        else:
            (queue,) = queues
            assert labels["ray.io/scheduler-name"] == "volcano"
            assert labels["volcano.sh/queue-name"] == queue["metadata"]["name"]
            room = queue["spec"]["capability"]
        needs = self.needs(folder)
        assert set(needs) == set(room)
        for name, most in room.items():
            assert needs[name] <= quantity(most) <= 1.1 * needs[name], name

    def needs(self, folder: str) -> dict[str, float]:
        """The requests of all pods of the run."""
        spec = cluster_spec(folder)
        pods = [(1, spec["headGroupSpec"]["template"])]
        pods += [(each["replicas"], each["template"]) for each in spec["workerGroupSpecs"]]
        pods.append((1, one(manifests(folder), "RayJob")["spec"]["submitterPodTemplate"]))
        total: dict[str, float] = {}
        for count, pod in pods:
            for container in pod["spec"]["containers"]:
                for name, value in container["resources"]["requests"].items():
                    total[name] = total.get(name, 0) + count * quantity(value)
        return total


class TestGcsFaultTolerance:
    def test_redis_is_where_the_head_looks_for_it(self) -> None:
        options = cluster_spec("gcs-fault-tolerance")["gcsFaultToleranceOptions"]
        service = one(manifests("gcs-fault-tolerance"), "Service")
        host, _, port = options["redisAddress"].partition(":")
        assert host == service["metadata"]["name"]
        assert int(port) == service["spec"]["ports"][0]["port"]
        redis = one(manifests("gcs-fault-tolerance"), "StatefulSet")["spec"]["template"]
        assert service["spec"]["selector"].items() <= redis["metadata"]["labels"].items()
        password = options["redisPassword"]["valueFrom"]
        (container,) = redis["spec"]["containers"]
        assert {"name": "REDIS_PASSWORD", "valueFrom": password} in container["env"]

    def test_its_pod_is_one_that_kubernetes_takes(self) -> None:
        """By the schema of pods that KubeRay's own has in it."""
        from raykd.clusters.documents import Document
        from raykd.clusters.kuberay_schema import kuberay_schema_findings

        redis = one(manifests("gcs-fault-tolerance"), "StatefulSet")["spec"]["template"]
        tree = {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "metadata": {"name": "a"},
            "spec": {"headGroupSpec": {"template": copy.deepcopy(redis)}},
        }
        assert list(kuberay_schema_findings([Document(tree, {}, 1)])) == []
        tree["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["comand"] = []
        assert list(kuberay_schema_findings([Document(tree, {}, 1)]))
