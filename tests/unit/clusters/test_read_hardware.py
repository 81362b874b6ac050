"""From a file to node types: numbers against what the file, or the provider's table, says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cluster_cases import AWS, KUBERAY, ON_PREM, RAY, line_of, rayjob, spoilt, written

from raykd.clusters.hardware import Hardware, NodeType
from raykd.clusters.machines import machine
from raykd.clusters.read import read_hardware
from raykd.errors import JobError

GIB = 2**30


def node_type(hardware: Hardware, name: str) -> NodeType:
    [found] = [each for each in hardware.node_types if each.name == name]
    return found


def test_aws(tmp_path: Path) -> None:
    found = read_hardware(written(tmp_path, AWS))
    assert (found.provider, found.ray_version) == ("aws", RAY)
    assert node_type(found, "head") == NodeType(
        "head", "head", {"raykd-role": "head"}, 1, 1, 0.0, 0, 32 * GIB, None, "m7i.2xlarge"
    )
    assert node_type(found, "teacher") == NodeType(
        "teacher",
        "teacher",
        {"raykd-role": "teacher"},
        0,
        4,
        96.0,
        8,
        1152 * GIB,
        "A100-40G",
        "p4d.24xlarge",
        spot=True,
    )
    assert [each.name for each in found.of_role("student")] == ["student"]
    assert found.prices["student"] == (55.04, None)


def test_what_the_file_states_goes_before_the_table(tmp_path: Path) -> None:
    text = AWS.replace(
        "    max_workers: 4\n",
        "    max_workers: 4\n    resources: "
        "{CPU: 90, GPU: 7, memory: 1000, 'accelerator_type:X': 1}\n",
    )
    teacher = node_type(read_hardware(written(tmp_path, text)), "teacher")
    assert (teacher.cpus, teacher.gpus, teacher.memory_bytes) == (90.0, 7, 1000)
    assert teacher.accelerator == "X"


def test_the_clusters_limit_holds_for_every_type(tmp_path: Path) -> None:
    text = AWS.replace("max_workers: 6", "max_workers: 3")
    assert node_type(read_hardware(written(tmp_path, text)), "teacher").max_nodes == 3
    unlimited = AWS.replace("    max_workers: 4\n", "")
    assert node_type(read_hardware(written(tmp_path, unlimited)), "teacher").max_nodes == 6


def test_the_heads_start_command_may_say_its_cpus(tmp_path: Path) -> None:
    text = AWS.replace("    resources: {CPU: 0}\n", "").replace("--head ", "--head --num-cpus=0 ")
    assert node_type(read_hardware(written(tmp_path, text)), "head").cpus == 0
    without = AWS.replace("    resources: {CPU: 0}\n", "")
    assert node_type(read_hardware(written(tmp_path, without)), "head").cpus == 8


GCP = """\
cluster_name: g
provider: {type: gcp, region: us-central1, project_id: p}
head_node_type: head
max_workers: 4
available_node_types:
  head: {resources: {CPU: 0}, node_config: {machineType: n2-standard-8}}
  teacher:
    labels: {raykd-role: teacher}
    node_config:
      machineType: zones/us-central1-a/machineTypes/a3-highgpu-8g
      scheduling: SCHEDULING
"""


@pytest.mark.parametrize(
    ("scheduling", "spot"),
    [
        ("[{preemptible: true}]", True),
        ("{provisioningModel: SPOT}", True),
        ("{preemptible: false}", False),
        ("[]", False),
    ],
)
def test_gcp(tmp_path: Path, scheduling: str, spot: bool) -> None:
    text = GCP.replace("SCHEDULING", scheduling)
    teacher = node_type(read_hardware(written(tmp_path, text)), "teacher")
    assert (teacher.cpus, teacher.gpus, teacher.accelerator) == (208, 8, "H100")
    assert (teacher.spot, teacher.max_nodes) == (spot, 4)


def test_azure(tmp_path: Path) -> None:
    text = (
        "cluster_name: a\nprovider: {type: azure, location: eastus, resource_group: r}\n"
        "head_node_type: head\navailable_node_types:\n  head:\n    resources: {CPU: 0}\n"
        "    node_config: {azure_arm_parameters: {vmSize: Standard_D8s_v5}}\n  teacher:\n"
        "    node_config:\n      azure_arm_parameters: {vmSize: standard_nc24ads_a100_v4, "
        "priority: Spot}\n"
    )
    found = read_hardware(written(tmp_path, text))
    teacher = node_type(found, "teacher")
    assert (teacher.cpus, teacher.gpus, teacher.accelerator) == (24, 1, "A100-80G")
    assert (teacher.spot, teacher.role, teacher.max_nodes) == (True, None, 2)
    assert found.prices["teacher"] == (3.673, None)


def test_machines_of_ones_own(tmp_path: Path) -> None:
    found = read_hardware(written(tmp_path, ON_PREM))
    assert found.provider == "on-prem"
    assert node_type(found, "student") == NodeType(
        "student", "student", {"raykd-role": "student"}, 2, 2, 96.0, 8, 2048 * GIB, "H100"
    )
    assert node_type(found, "big").labels == {"raykd-role": "teacher", "pool": "b"}
    assert found.prices == {"student": (12.5, None)}
    assert found.ray_version == RAY


@pytest.mark.parametrize("text", [KUBERAY, rayjob()])
def test_kuberay(tmp_path: Path, text: str) -> None:
    found = read_hardware(written(tmp_path, text))
    assert (found.provider, found.ray_version) == ("kuberay", RAY)
    assert found.node_types == (
        NodeType("headgroup", "head", {"raykd-role": "head"}, 1, 1, 0.0, 0, 32 * GIB),
        NodeType(
            "teacher",
            "teacher",
            {"raykd-role": "teacher"},
            0,
            8,
            8.0,
            2,
            64 * GIB,
            "H100",
            spot=True,
        ),
    )


def test_without_kuberays_autoscaler_there_are_replicas(tmp_path: Path) -> None:
    text = KUBERAY.replace("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false")
    text = text.replace("minReplicas: 0", "replicas: 3\n      minReplicas: 0")
    teacher = node_type(read_hardware(written(tmp_path, text)), "teacher")
    assert (teacher.min_nodes, teacher.max_nodes) == (6, 6)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-A100-SXM4-40GB", "A100-40G"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80G"),
        ("NVIDIA-L40S", "L40S"),
        ("NVIDIA-L4", "L4"),
        ("Unheard-Of", None),
    ],
)
def test_kubernetes_names_of_gpus(tmp_path: Path, product: str, name: str | None) -> None:
    text = KUBERAY.replace("NVIDIA-H100-80GB-HBM3", product)
    assert node_type(read_hardware(written(tmp_path, text)), "teacher").accelerator == name


def test_skypilot(tmp_path: Path) -> None:
    text = (
        "resources: {accelerators: 'A100-80GB:8', cpus: 90+, memory: 1000+, use_spot: true}\n"
        "num_nodes: 3\nrun: python -m raykd run jobs/x.yaml\n"
    )
    [node] = read_hardware(written(tmp_path, text)).node_types
    assert (node.min_nodes, node.max_nodes, node.cpus, node.gpus) == (3, 3, 90.0, 8)
    assert (node.accelerator, node.spot, node.memory_bytes) == ("A100-80G", True, 1000 * GIB)


def test_skypilots_roles_go_by_rank(tmp_path: Path) -> None:
    text = "resources: {cpus: 8}\nnum_nodes: 3\nenvs: {NUM_STUDENT_NODES: '1'}\nrun: x\n"
    found = read_hardware(written(tmp_path, text))
    assert [(each.role, each.max_nodes) for each in found.node_types] == [
        ("student", 1),
        ("teacher", 2),
    ]
    assert found.of_role("teacher")[0].labels == {"raykd-role": "teacher"}
    alone = read_hardware(written(tmp_path, text.replace("'1'", "'3'")))
    assert [each.role for each in alone.node_types] == ["student"]
    with pytest.raises(JobError, match=r":3: envs.NUM_STUDENT_NODES: '4'; .* from 1 to num_nodes"):
        read_hardware(written(tmp_path, text.replace("'1'", "'4'")))


def test_prices_of_a_persons_own_go_first(tmp_path: Path) -> None:
    own = written(tmp_path, "p4d.24xlarge: {on_demand: 1, spot: 0.5}\nhead: {on_demand: 9}\n", "p")
    found = read_hardware(written(tmp_path, AWS), own)
    assert found.prices["teacher"] == (1, 0.5)
    assert found.prices["head"] == (9, None)
    assert found.prices["student"] == (55.04, None)


@pytest.mark.parametrize("price", ["cheap", "-1", ".nan", "{x: 1}", "true"])
def test_what_is_no_price(tmp_path: Path, price: str) -> None:
    own = written(tmp_path, f"# mine\nhead: {{on_demand: {price}}}\n", "p")
    with pytest.raises(JobError, match=r"/p:2: head.on_demand: .*no price"):
        read_hardware(written(tmp_path, AWS), own)


@pytest.mark.parametrize(
    ("text", "old", "new", "where", "message"),
    [
        (AWS, "p5.48xlarge", "p99.huge", "  student:", "how many CPUs p99.huge has is not known"),
        (KUBERAY, "7500m", "many", "      template:", "'many' is no quantity"),
        (ON_PREM, "role: teacher", "role: boss", "role: boss", "choose head, student, teacher"),
        (ON_PREM, "cpus: 64", "cpu: 64", "cpu: 64", "unknown key"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    tmp_path: Path, text: str, old: str, new: str, where: str, message: str
) -> None:
    bad = spoilt(text, old, new)
    path = written(tmp_path, bad)
    with pytest.raises(JobError, match=message) as error:
        read_hardware(path)
    assert str(error.value).startswith(f"{path}:{line_of(bad, where)}: ")


@pytest.mark.parametrize(
    ("old", "new"), [("max_workers: 4", "max_workers: many"), ("CPU: 0", "CPU: [1]")]
)
def test_values_of_the_wrong_kind_are_no_defect(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(JobError, match="of the wrong kind"):
        read_hardware(written(tmp_path, spoilt(AWS, old, new)))


def test_reading_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    path = written(tmp_path, AWS)
    code = (
        "import sys\nfrom pathlib import Path\nfrom raykd.clusters.read import read_hardware\n"
        f"read_hardware(Path({str(path)!r}))\n"
        "found = {'ray', 'torch', 'jsonschema', 'botocore'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_table_of_machines_is_sound() -> None:
    """Figures from providers' pages, by hand; and no row without a place to run."""
    p5 = machine("p5.48xlarge")
    assert p5 is not None
    assert (p5.cpus, p5.gpus, p5.accelerator, p5.memory_bytes) == (192, 8, "H100", 2048 * GIB)
    assert p5.network_bytes_per_s == 3200e9 / 8
    assert machine("P5.48XLARGE") == p5
    assert machine("no.such") is None
    assert machine(None) is None


def test_every_accelerator_is_one_of_rays_names() -> None:
    from ray.util.accelerators import accelerators

    from raykd.clusters.machines import _table

    known = {value for name, value in vars(accelerators).items() if name.isupper()}
    for name, row in _table().items():
        assert (row.accelerator in known) == (row.gpus > 0), name
        assert row.cpus > 0
        assert row.memory_bytes > 0
