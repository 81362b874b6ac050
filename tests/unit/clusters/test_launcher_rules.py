"""Each rule for Ray's launcher files: the good file passes, one thing spoilt is named by line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cluster_cases import AWS, ON_PREM, RAY, complaints, line_of, named_at_its_line, spoilt, written

from raykd.clusters.check import check_cluster
from raykd.errors import JobError


def test_good_files_have_nothing_to_fix_or_consider(tmp_path: Path) -> None:
    assert complaints(tmp_path, AWS) == []
    assert complaints(tmp_path, ON_PREM) == []


def test_every_subject_of_a_good_file_is_named(tmp_path: Path) -> None:
    found = check_cluster(written(tmp_path, AWS))
    subjects = [each.subject for each in found]
    assert subjects == list(dict.fromkeys(subjects))
    assert {"schema", "auth", "ports", "image", "roles", "head", "secrets"} <= set(subjects)


SPOILT = [
    # old, new, where (a snippet of the spoilt text), level, subject, part of the text
    ("max_workers: 6", "max_wrokers: 6", "max_wrokers", "fix this", "schema", "'max_workers'"),
    ("max_workers: 6", "max_workers: six", "six", "fix this", "schema", "a whole number; found"),
    ("max_workers: 6", "max_workers: 1", "max_workers: 1", "fix this", "schema", "less than the 2"),
    (
        "min_workers: 2\n    max_workers: 2",
        "min_workers: 3\n    max_workers: 2",
        "min_workers: 3",
        "fix this",
        "schema",
        "min_workers 3 is more than max_workers 2",
    ),
    ("min_workers: 2", "min_workers: -2", "min_workers: -2", "fix this", "schema", "below 0"),
    (
        "head_node_type: head",
        "head_node_type: haed",
        "head_node_type",
        "fix this",
        "schema",
        "'haed' is no node type; choose head, student, teacher",
    ),
    (
        "{InstanceType: p5.48xlarge, ImageId: ami-1}",
        "{machineType: a3-highgpu-8g}",
        "{machineType",
        "fix this",
        "provider",
        "which is for gcp; provider.type says aws",
    ),
    (
        "{InstanceType: p5.48xlarge, ImageId: ami-1}",
        "{ImageId: ami-1}",
        "node_config: {ImageId",
        "fix this",
        "provider",
        "lacks InstanceType",
    ),
    (f":{RAY}-py311-gpu", ":latest", "image: ray", "fix this", "image", "may be another image"),
    (f":{RAY}-py311-gpu", "", "image: ray", "fix this", "image", "may be another image"),
    (
        f":{RAY}-py311",
        ":2.9.3-py311",
        "image: ray",
        "fix this",
        "image",
        f"2.9.3, and here Ray {RAY}",
    ),
    (
        "initialization_commands:\n",
        "setup_commands: [\"pip install -U 'ray[default]'\"]\ninitialization_commands:\n",
        "setup_commands",
        "fix this",
        "image",
        "without saying which",
    ),
    (
        "initialization_commands:\n",
        "setup_commands:\n  - ls\n  - pip install ray==2.9.3\ninitialization_commands:\n",
        "  - pip install ray",
        "fix this",
        "image",
        "Ray 2.9.3",
    ),
    (
        "m7i.2xlarge, ImageId: ami-1",
        "m7i.2xlarge",
        "{InstanceType: m7i",
        "consider",
        "image",
        "AMI",
    ),
    ("    - -e RAY_AUTH_MODE=token\n", "", "head_start", "fix this", "auth", "head: RAY_AUTH_MODE"),
    ("MODE=token", "MODE=disabled", "worker_start", "fix this", "auth", "worker: RAY_AUTH_MODE"),
    (
        '{"~/.ray/auth_token": "~/.ray/auth_token"}',
        "{}",
        "file_mounts",
        "consider",
        "auth",
        "brings",
    ),
    ("host=127.0.0.1", "host=0.0.0.0", "  - ray start --head", "fix this", "ports", "0.0.0.0"),
    ("host=127.0.0.1", "host 0.0.0.0", "  - ray start --head", "fix this", "ports", "0.0.0.0"),
    ("FromPort: 22,", "FromPort: 8265,", "- {FromPort", "fix this", "ports", "203.0.113.0/24"),
    ("22, ToPort: 22, ", "-1, ToPort: -1, ", "- {FromPort", "fix this", "ports", "all numbers"),
    (
        "[{CidrIp: 203.0.113.0/24}]",
        "[{CidrIp: 0.0.0.0/0}], UserIdGroupPairs: []}\n      - {FromPort: 8265, ToPort: 8265, "
        "IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]",
        "- {FromPort: 8265",
        "fix this",
        "ports",
        "8265 are open to 0.0.0.0/0",
    ),
    (
        "ImageId: ami-1}\n  student",
        "ImageId: ami-1, SecurityGroupIds: [sg-1]}\n  student",
        "{InstanceType: m7i",
        "consider",
        "ports",
        "elsewhere",
    ),
    ("idle_timeout_minutes: 10\n", "", "  teacher:", "consider", "idle", "5 minutes"),
    (",us-east-1b", "", "availability_zone", "consider", "zones", "us-east-1a only"),
    (
        "resources: {CPU: 0}",
        "resources: {CPU: 8}",
        "  head:",
        "fix this",
        "head",
        "gives out 8 CPUs",
    ),
    ("m7i.2xlarge", "m7i.large", "  head:", "fix this", "head", "has 8 GiB"),
    ("m7i.2xlarge", "t9.unknown", "  head:", "consider", "head", "memory is not stated"),
    (
        "InstanceType: m7i.2xlarge,",
        "InstanceType: m7i.2xlarge, InstanceMarketOptions: {MarketType: spot},",
        "  head:",
        "fix this",
        "head",
        "is spot",
    ),
    (
        "InstanceType: p5.48xlarge,",
        "InstanceType: p5.48xlarge, InstanceMarketOptions: {MarketType: spot},",
        "  student:",
        "consider",
        "spot",
        "(student) is spot",
    ),
    (
        "{MarketType: spot}",
        "{MarketType: capacity-block}",
        "  teacher:",
        "consider",
        "spot",
        "on demand",
    ),
    ("raykd-role: teacher", "raykd-role: techer", "  teacher:", "fix this", "roles", "'teacher'?"),
    ("    labels: {raykd-role: teacher}\n", "", "  teacher:", "consider", "roles", "no label"),
]


@pytest.mark.parametrize(("old", "new", "where", "level", "subject", "text"), SPOILT)
def test_one_thing_spoilt_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, where: str, level: str, subject: str, text: str
) -> None:
    named_at_its_line(tmp_path, spoilt(AWS, old, new), where, level, subject, text)


def test_no_mount_is_worth_a_thought(tmp_path: Path) -> None:
    bad = AWS.replace("    - -v /shared:/shared\n", "").replace("mount -t efs", "ls")
    [found] = complaints(tmp_path, bad)
    assert (found.level, found.subject) == ("consider", "storage")


def test_private_networks_may_reach_any_port(tmp_path: Path) -> None:
    inside = AWS.replace("203.0.113.0/24", "10.0.0.0/8").replace("FromPort: 22", "FromPort: 8000")
    assert complaints(tmp_path, inside) == []


def test_rays_default_start_commands_open_the_dashboard(tmp_path: Path) -> None:
    bad = AWS[: AWS.index("head_start_ray_commands")]
    [found] = complaints(tmp_path, bad)
    assert found.subject == "ports"
    assert "0.0.0.0" in found.text


def test_machines_of_ones_own_have_to_be_described(tmp_path: Path) -> None:
    bad = ON_PREM[: ON_PREM.index("metadata:")]
    [found] = complaints(tmp_path, bad)
    assert (found.level, found.subject) == ("fix this", "hardware")
    assert "metadata.raykd.node_types: missing" in found.text


def test_a_wrong_description_of_ones_own_machines(tmp_path: Path) -> None:
    bad = spoilt(ON_PREM, "cpus: 96", "cpus: many")
    [found] = complaints(tmp_path, bad)
    assert found.line == line_of(bad, "cpus: many")
    assert "student.cpus: a number of at least 0; found 'many'" in found.text


def test_as_many_machines_as_are_described(tmp_path: Path) -> None:
    bad = spoilt(ON_PREM, ", 10.0.0.4]", "]")
    [found] = complaints(tmp_path, bad)
    assert (found.subject, found.line) == ("provider", line_of(bad, "worker_ips"))
    assert "2 addresses" in found.text
    assert "3 machines" in found.text


def test_subjects_that_a_provider_has_not_are_not_called_good(tmp_path: Path) -> None:
    subjects = {each.subject for each in check_cluster(written(tmp_path, ON_PREM))}
    assert not subjects & {"idle", "zones", "node_config"}


def test_ray_itself_has_the_last_word(tmp_path: Path) -> None:
    """The schema allows it; Ray's preparation of files for machines of one's own does not."""
    bad = spoilt(ON_PREM, "  worker_ips: [10.0.0.2, 10.0.0.3, 10.0.0.4]\n", "")
    [found] = complaints(tmp_path, bad)
    assert found.subject == "schema"
    assert found.text.startswith("Ray refuses it: ")
    assert "worker_ips" in found.text


def test_an_unknown_provider_ends_the_check(tmp_path: Path) -> None:
    bad = spoilt(AWS, "type: aws", "type: awss")
    path = written(tmp_path, bad)
    with pytest.raises(JobError) as error:
        check_cluster(path)
    assert str(error.value).startswith(f"{path}:{line_of(bad, 'type: awss')}: provider.type: ")
    assert "aws, gcp, azure, local" in str(error.value)


def test_without_botocore_the_node_config_is_not_called_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raykd.clusters.aws_node_config.find_spec", lambda name: None)
    [found] = [e for e in check_cluster(written(tmp_path, AWS)) if e.subject == "node_config"]
    assert found.level == "unchecked"
    assert "pip install botocore" in found.text


NODE_CONFIGS = [
    ("ImageId: ami-1\n", "ImagId: ami-1\n", "ImagId", "fix this", "ImagId"),
    ("{MarketType: spot}", "{MarketTyp: spot}", "{MarketTyp", "fix this", "MarketTyp"),
    ("{MarketType: spot}", "{MarketType: spott}", "{MarketType", "consider", "'spott'"),
    ("ImageId: ami-1\n", "ImageId: 7\n", "ImageId: 7", "fix this", "Invalid type"),
    (
        "ImageId: ami-1\n",
        "ImageId: ami-1\n      BlockDeviceMappings:\n        - DeviceName: /dev/sda1\n"
        "          Ebs: {VolumeSize: big}\n",
        "Ebs: {VolumeSize",
        "fix this",
        "BlockDeviceMappings[0].Ebs.VolumeSize",
    ),
]


@pytest.mark.parametrize(("old", "new", "where", "level", "text"), NODE_CONFIGS)
def test_node_config_against_ec2s_own_model(
    tmp_path: Path, old: str, new: str, where: str, level: str, text: str
) -> None:
    pytest.importorskip("botocore")
    bad = spoilt(AWS, old, new)
    found = [e for e in complaints(tmp_path, bad, level) if e.subject == "node_config"]
    assert [(each.line, text in each.text) for each in found] == [(line_of(bad, where), True)]


def test_rays_default_files_are_not_taken_for_safe(tmp_path: Path) -> None:
    """Written by others: Ray's own defaults, which ask for no token and open the dashboard."""
    import importlib.util

    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for provider in ("aws", "gcp", "azure"):
        text = (root / "autoscaler" / provider / "defaults.yaml").read_text()
        found = {each.subject for each in complaints(tmp_path, text, "fix this")}
        assert found == {"auth", "head", "image", "ports"}, provider


def test_the_check_ends_nothing_and_leaves_logging_as_it_was(tmp_path: Path) -> None:
    before = logging.root.manager.disable
    check_cluster(written(tmp_path, AWS))
    assert logging.root.manager.disable == before
