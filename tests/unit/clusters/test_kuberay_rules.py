"""Each rule for KubeRay manifests, and their schema: one thing spoilt is named by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_cases import (
    KUBERAY,
    RAY,
    complaints,
    line_of,
    named_at_its_line,
    rayjob,
    spoilt,
    written,
)

from raykd.clusters.check import check_cluster
from raykd.errors import JobError

KINDS = {"RayCluster": KUBERAY, "RayJob": rayjob()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_manifest_has_nothing_to_fix_or_consider(tmp_path: Path, kind: str) -> None:
    assert complaints(tmp_path, KINDS[kind]) == []


def test_a_ray_service_is_read_as_well(tmp_path: Path) -> None:
    service = rayjob().replace("kind: RayJob", "kind: RayService")
    service = service.replace("rayClusterSpec", "rayClusterConfig")
    service = service.replace("  entrypoint: python -m raykd run jobs/x.yaml\n", "")
    service = service.replace("  shutdownAfterJobFinishes: true\n", "")
    assert complaints(tmp_path, service) == []


SPOILT = [
    ("rayVersion:", "rayVersoin:", "rayVersoin", "fix this", "schema", "'rayVersion'?"),
    ("mode: token", "mode: tokne", "authOptions", "fix this", "schema", "choose disabled, token"),
    (
        "    - groupName: teacher\n      min",
        "    - min",
        "    - min",
        "fix this",
        "schema",
        "groupName",
    ),
    ("minReplicas: 0", "minReplicas: none", "minReplicas", "fix this", "schema", "a whole number"),
    (
        "containers:\n          - name",
        "containres:\n          - name",
        "containres",
        "fix this",
        "schema",
        "did you mean 'containers'",
    ),
    (
        "{name: shared, mountPath: /shared}",
        "{name: shared, mountpath: /shared}",
        "volumeMounts",
        "fix this",
        "schema",
        "did you mean 'mountPath'",
    ),
    ("memory: 32Gi", "memory: 32 Gi", "limits: {cpu: 4", "fix this", "schema", "memory"),
    (
        "minReplicas: 0",
        "minReplicas: 5",
        "minReplicas",
        "fix this",
        "scaling",
        "more than maxReplicas 4",
    ),
    (
        "minReplicas: 0",
        "replicas: 9\n      minReplicas: 0",
        "replicas: 9",
        "fix this",
        "scaling",
        "9 is not within 0 and 4",
    ),
    (
        "enableInTreeAutoscaling: true",
        "enableInTreeAutoscaling: false",
        "maxReplicas",
        "fix this",
        "scaling",
        "enableInTreeAutoscaling: true",
    ),
    ("version: v2, ", "", "autoscalerOptions", "consider", "scaling", "not v2"),
    (
        "labels: {raykd-role: teacher}\n      rayStartParams: {}",
        "rayStartParams: {labels: raykd-role=teacher}",
        "rayStartParams: {labels",
        "fix this",
        "roles",
        "ignores rayStartParams.labels",
    ),
    (
        "raykd-role: teacher",
        "raykd-role: teachers",
        "    - groupName",
        "fix this",
        "roles",
        "did you mean 'teacher'?",
    ),
    (
        f"rayVersion: {RAY}",
        "rayVersion: 2.9.3",
        "rayVersion",
        "fix this",
        "image",
        "Ray 2.9.3, and here",
    ),
    (
        f"  rayVersion: {RAY}\n",
        "",
        "spec:\n  authOptions",
        "fix this",
        "image",
        "rayVersion is missing",
    ),
    (
        f":{RAY}-py311-gpu",
        ":latest",
        "image: rayproject/ray:latest",
        "fix this",
        "image",
        "another image tomorrow",
    ),
    (
        f":{RAY}-py311-gpu",
        ":2.9.3",
        "image: rayproject/ray:2.9.3",
        "fix this",
        "image",
        "Ray 2.9.3",
    ),
    ("  authOptions: {mode: token}\n", "", "spec:\n  rayVersion", "fix this", "auth", "not token"),
    ("mode: token", "mode: disabled", "  authOptions", "fix this", "auth", "not token"),
    (
        "  headGroupSpec:\n",
        "  headGroupSpec:\n    serviceType: LoadBalancer\n",
        "serviceType",
        "fix this",
        "ports",
        "from outside",
    ),
    (
        "  headGroupSpec:\n",
        "  headGroupSpec:\n    headService: {spec: {type: NodePort}}\n",
        "headService",
        "fix this",
        "ports",
        "NodePort",
    ),
    (
        "      spec:\n        containers",
        "      spec:\n        hostNetwork: true\n        containers",
        "hostNetwork",
        "fix this",
        "ports",
        "hostNetwork",
    ),
    (
        "            image:",
        "            ports: [{containerPort: 8265, hostPort: 8265}]\n            image:",
        "hostPort",
        "fix this",
        "ports",
        "hostPort",
    ),
    (", idleTimeoutSeconds: 300", "", "    - groupName", "consider", "idle", "60 seconds"),
    (
        "            volumeMounts: [{name: shared, mountPath: /shared}]\n        volumes",
        "        volumes",
        "    template:\n      spec:\n        containers",
        "consider",
        "storage",
        "headgroup: mounts no shared",
    ),
    ('{num-cpus: "0"}', "{}", "  headGroupSpec", "fix this", "head", "gives out 4 CPUs"),
    ("memory: 32Gi", "memory: 8Gi", "  headGroupSpec", "fix this", "head", "has 8 GiB"),
    (
        "cpu: 7500m, memory: 64Gi, nvidia.com/gpu: 2",
        "memory: 64Gi",
        "      template",
        "fix this",
        "hardware",
        "resources.limits.cpu",
    ),
]


@pytest.mark.parametrize(("old", "new", "where", "level", "subject", "text"), SPOILT)
def test_one_thing_spoilt_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, where: str, level: str, subject: str, text: str
) -> None:
    named_at_its_line(tmp_path, spoilt(KUBERAY, old, new), where, level, subject, text)


def test_a_service_document_that_opens_the_head(tmp_path: Path) -> None:
    bad = KUBERAY + (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: head}\nspec:\n"
        "  type: LoadBalancer\n  ports: [{port: 8265}]\n"
    )
    [found] = complaints(tmp_path, bad)
    assert (found.subject, found.line) == ("ports", line_of(bad, "type: LoadBalancer"))


def test_a_job_whose_cluster_stays_is_worth_a_thought(tmp_path: Path) -> None:
    bad = spoilt(rayjob(), "  shutdownAfterJobFinishes: true\n", "")
    [found] = complaints(tmp_path, bad)
    assert (found.level, found.subject) == ("consider", "idle")


def test_lines_are_those_of_the_file_in_later_documents(tmp_path: Path) -> None:
    bad = spoilt(rayjob(), "entrypoint:", "entryPoint:")
    [found] = complaints(tmp_path, bad)
    assert found.line == line_of(bad, "entryPoint:")
    assert "did you mean 'entrypoint'?" in found.text


def test_two_clusters_in_one_file(tmp_path: Path) -> None:
    text = KUBERAY + "---\n" + rayjob().partition("---\n")[2]
    [found] = complaints(tmp_path, text)
    assert found.subject == "hardware"
    assert "2 Ray clusters" in found.text


def test_manifests_without_ray_are_looked_at_for_what_they_hold(tmp_path: Path) -> None:
    claim = KUBERAY.partition("---\n")[0]
    assert complaints(tmp_path, claim) == []
    assert all(each.level == "ok" for each in check_cluster(written(tmp_path, claim)))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("ray.io/v1\n", "ray.io/v1alpha1\n", "KubeRay serves ray.io/v1"),
        ("kind: RayCluster", "kind: RayClutser", "RayCluster, RayJob, RayService"),
    ],
)
def test_other_kinds_and_versions_are_refused(
    tmp_path: Path, old: str, new: str, text: str
) -> None:
    bad = spoilt(KUBERAY, old, new)
    with pytest.raises(JobError, match=text) as error:
        check_cluster(written(tmp_path, bad))
    assert f"cluster.yaml:{line_of(bad, new.strip())}: " in str(error.value)
