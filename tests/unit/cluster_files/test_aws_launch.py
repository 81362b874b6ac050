"""aws.yaml launched for real, against a stand-in for AWS (moto) in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from cluster_folder import launcher_file
from ray.autoscaler._private.util import prepare_config, validate_config

REGION = "us-east-1"
WORKERS = ("student-p5", "teacher-p4d", "data")


@dataclass(frozen=True)
class Launch:
    """What `ray up`, and then the autoscaler on the head, left in the account.

    Attributes:
        config: The file, filled in by Ray.
        provider: Ray's way to the machines.
        instances: The one machine of each node type that is on, as EC2 describes it.
    """

    config: dict[str, Any]
    provider: Any
    instances: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty account; nothing of this person's own is read or written."""
    from moto import mock_aws
    from ray.autoscaler._private.aws import config, utils

    caches = (utils.resource_cache, utils.client_cache, config._get_subnets_or_die)
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("MOTO_IAM_LOAD_MANAGED_POLICIES", "true")
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(key, "testing")
        patch.delenv("AWS_PROFILE", raising=False)
        # Ray waits half a minute for a new role to be known everywhere.
        patch.setattr(config.time, "sleep", lambda _: None)
        for cache in caches:
            cache.cache_clear()
        with mock_aws():
            yield home
        for cache in caches:
            cache.cache_clear()


@pytest.fixture(scope="module")
def launch(account: Path) -> Launch:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

    config = prepare_config(launcher_file("aws"))
    validate_config(config)
    config = bootstrap_aws(AWSNodeProvider.fillout_available_node_types_resources(config))
    assert Path(config["auth"]["ssh_private_key"]).parent == account / ".ssh"
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    for name in ("head", *WORKERS):
        node = dict(config["available_node_types"][name]["node_config"])
        kind = "worker"
        if name == "head":
            node, kind = config["head_node"] | node, "head"
        provider.create_node(node, {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: name}, 1)
    pages = boto3.client("ec2", region_name=REGION).describe_instances()["Reservations"]
    found = {}
    for instance in (each for page in pages for each in page["Instances"]):
        tags = {each["Key"]: each["Value"] for each in instance["Tags"]}
        assert tags[TAG_RAY_USER_NODE_TYPE] not in found
        found[tags[TAG_RAY_USER_NODE_TYPE]] = instance
    return Launch(config, provider, found)


def test_each_role_has_its_machine(launch: Launch) -> None:
    assert {name: each["InstanceType"] for name, each in launch.instances.items()} == {
        "head": "m7i.2xlarge",
        "student-p5": "p5.48xlarge",
        "teacher-p4d": "p4d.24xlarge",
        "data": "m7i.8xlarge",
    }
    assert launch.config["available_node_types"]["head"]["resources"]["CPU"] == 0


def test_only_teachers_are_spot(launch: Launch) -> None:
    spot = {
        name for name, each in launch.instances.items() if each.get("InstanceLifecycle") == "spot"
    }
    assert spot == {"teacher-p4d"}


def test_only_the_head_may_start_and_end_machines(launch: Launch) -> None:
    able = {name for name, each in launch.instances.items() if "IamInstanceProfile" in each}
    assert able == {"head"}


def test_metadata_is_given_to_sessions_only(launch: Launch) -> None:
    for name, instance in launch.instances.items():
        assert instance["MetadataOptions"]["HttpTokens"] == "required", name


def test_only_ssh_is_open_from_outside(launch: Launch) -> None:
    ids = {
        group["GroupId"] for each in launch.instances.values() for group in each["SecurityGroups"]
    }
    (group,) = boto3.client("ec2", region_name=REGION).describe_security_groups(
        GroupIds=sorted(ids)
    )["SecurityGroups"]
    assert group["GroupName"] == "raykd"
    outside = [
        (rule.get("FromPort"), rule.get("ToPort"), rule["IpProtocol"])
        for rule in group["IpPermissions"]
        if rule["IpRanges"] or rule["Ipv6Ranges"] or rule["PrefixListIds"]
    ]
    assert outside == [(22, 22, "tcp")]
    inside = {
        pair["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]
    }
    assert inside == ids


def test_a_zone_without_capacity_leads_to_the_next(
    launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    create, asked = launch.provider.ec2_fail_fast.create_instances, []

    def sold_out_at_first(**arguments: Any) -> Any:
        asked.append(arguments["SubnetId"])
        if len(asked) == 1:
            error = {"Code": "InsufficientInstanceCapacity", "Message": "sold out"}
            raise ClientError({"Error": error}, "RunInstances")
        return create(**arguments)

    monkeypatch.setattr(launch.provider.ec2_fail_fast, "create_instances", sold_out_at_first)
    node = dict(launch.config["available_node_types"]["teacher-p4d"]["node_config"])
    (instance,) = launch.provider._create_node(node, {}, 1).values()
    assert launch.instances["teacher-p4d"]["Placement"]["AvailabilityZone"] == "us-east-1a"
    assert len(set(asked)) == 2
    assert instance.placement["AvailabilityZone"] == "us-east-1b"


@pytest.mark.parametrize("name", ["student-p4d", "teacher-g6", "teacher-p5"])
def test_variants_that_are_off_would_start(launch: Launch, name: str) -> None:
    node = dict(launch.config["available_node_types"][name]["node_config"])
    (instance,) = launch.provider._create_node(node, {}, 1).values()
    assert instance.instance_type == node["InstanceType"]
    assert (instance.instance_lifecycle == "spot") == name.startswith("teacher")
