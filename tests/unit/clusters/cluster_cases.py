"""A good cluster file of each kind, to be spoilt in one place at a time."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from raykd.clusters.check import check_cluster
from raykd.clusters.finding import Finding

RAY = version("ray")

AWS = f"""\
cluster_name: good
max_workers: 6
idle_timeout_minutes: 10
provider:
  type: aws
  region: us-east-1
  availability_zone: us-east-1a,us-east-1b
  security_group:
    GroupName: good
    IpPermissions:
      - {{FromPort: 22, ToPort: 22, IpProtocol: tcp, IpRanges: [{{CidrIp: 203.0.113.0/24}}]}}
auth: {{ssh_user: ubuntu}}
docker:
  image: rayproject/ray:{RAY}-py311-gpu
  container_name: ray
  run_options:
    - -e RAY_AUTH_MODE=token
    - -v /shared:/shared
file_mounts: {{"~/.ray/auth_token": "~/.ray/auth_token"}}
initialization_commands:
  - sudo mount -t efs fs-1:/ /shared
head_node_type: head
available_node_types:
  head:
    labels: {{raykd-role: head}}
    resources: {{CPU: 0}}
    node_config: {{InstanceType: m7i.2xlarge, ImageId: ami-1}}
  student:
    min_workers: 2
    max_workers: 2
    labels: {{raykd-role: student}}
    node_config: {{InstanceType: p5.48xlarge, ImageId: ami-1}}
  teacher:
    min_workers: 0
    max_workers: 4
    labels: {{raykd-role: teacher}}
    node_config:
      InstanceType: p4d.24xlarge
      ImageId: ami-1
      InstanceMarketOptions: {{MarketType: spot}}
head_start_ray_commands:
  - ray stop
  - ray start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=~/ray.yaml
worker_start_ray_commands:
  - ray stop
  - ray start --address=$RAY_HEAD_IP:6379
"""

ON_PREM = f"""\
cluster_name: own
provider:
  type: local
  head_ip: 10.0.0.1
  worker_ips: [10.0.0.2, 10.0.0.3, 10.0.0.4]
auth: {{ssh_user: ubuntu}}
file_mounts: {{"~/.ray/auth_token": "~/.ray/auth_token"}}
setup_commands:
  - pip install "ray[default]=={RAY}"
  - sudo mount -t nfs 10.0.0.9:/shared /shared
  - echo 'export RAY_AUTH_MODE=token' >> ~/.bashrc
head_start_ray_commands:
  - ray start --head --port=6379 --num-cpus 0
worker_start_ray_commands:
  - ray start --address=$RAY_HEAD_IP:6379
metadata:
  raykd:
    node_types:
      head: {{cpus: 0, memory_gib: 64}}
      student: {{nodes: 2, cpus: 96, gpus: 8, accelerator: H100, memory_gib: 2048}}
      big:
        role: teacher
        cpus: 64
        gpus: 4
        accelerator: A100-80G
        labels: {{pool: b}}
    prices:
      student: {{on_demand: 12.5}}
"""

KUBERAY = f"""\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: shared}}
spec:
  accessModes: [ReadWriteMany]
  resources: {{requests: {{storage: 1Ti}}}}
---
apiVersion: ray.io/v1
kind: RayCluster
metadata: {{name: good}}
spec:
  rayVersion: {RAY}
  authOptions: {{mode: token}}
  enableInTreeAutoscaling: true
  autoscalerOptions: {{version: v2, idleTimeoutSeconds: 300}}
  headGroupSpec:
    labels: {{raykd-role: head}}
    rayStartParams: {{num-cpus: "0"}}
    template:
      spec:
        containers:
          - name: ray-head
            image: rayproject/ray:{RAY}-py311-gpu
            resources:
              limits: {{cpu: 4, memory: 32Gi}}
            volumeMounts: [{{name: shared, mountPath: /shared}}]
        volumes: [{{name: shared, persistentVolumeClaim: {{claimName: shared}}}}]
  workerGroupSpecs:
    - groupName: teacher
      minReplicas: 0
      maxReplicas: 4
      numOfHosts: 2
      labels: {{raykd-role: teacher}}
      rayStartParams: {{}}
      template:
        spec:
          nodeSelector:
            karpenter.sh/capacity-type: spot
            nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3
          containers:
            - name: ray-worker
              image: rayproject/ray:{RAY}-py311-gpu
              resources:
                limits: {{cpu: 7500m, memory: 64Gi, nvidia.com/gpu: 2}}
              volumeMounts: [{{name: shared, mountPath: /shared}}]
          volumes: [{{name: shared, persistentVolumeClaim: {{claimName: shared}}}}]
"""


def rayjob(text: str = KUBERAY) -> str:
    """The same cluster in a RayJob."""
    head, _, spec = text.partition("kind: RayCluster\nmetadata: {name: good}\nspec:\n")
    indented = "".join(f"  {line}\n" for line in spec.splitlines())
    return (
        f"{head}kind: RayJob\nmetadata: {{name: good}}\nspec:\n"
        "  entrypoint: python -m raykd run jobs/x.yaml\n  shutdownAfterJobFinishes: true\n"
        f"  rayClusterSpec:\n{indented}"
    )


def spoilt(text: str, old: str, new: str) -> str:
    """The text with one place changed; the place has to be there."""
    assert old in text, old
    return text.replace(old, new, 1)


def line_of(text: str, snippet: str) -> int:
    """The line of the first place where a snippet stands, from 1."""
    return text[: text.index(snippet)].count("\n") + 1


def written(tmp_path: Path, text: str, name: str = "cluster.yaml") -> Path:
    """A file with this text."""
    path = tmp_path / name
    path.write_text(text)
    return path


def complaints(tmp_path: Path, text: str, *levels: str) -> list[Finding]:
    """What the check has against a file: `fix this` and `consider`, or the levels named."""
    found = check_cluster(written(tmp_path, text))
    return [each for each in found if each.level in (levels or ("fix this", "consider"))]


def named_at_its_line(
    tmp_path: Path, bad: str, where: str, level: str, subject: str, text: str
) -> None:
    """A complaint of this level and subject says `text`, once, at the line that holds `where`."""
    found = [each for each in complaints(tmp_path, bad, level) if each.subject == subject]
    named = [each for each in found if text in each.text]
    assert [each.line for each in named] == [line_of(bad, where)], found
