"""The files for Ray's cluster launcher, read by what reads them when `ray up` runs."""

from __future__ import annotations

import copy
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import ray
from cluster_folder import CLUSTER, IMAGE, launcher_file, ray_start_options
from ray.autoscaler._private.util import prepare_config, validate_config

from raykd import __version__
from raykd.clusters.machines import machine

CLOUDS = ("aws", "gcp", "azure")
FILES = (*CLOUDS, "on-prem")
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def prepared(name: str) -> dict[str, Any]:
    config = prepare_config(launcher_file(name))
    validate_config(config)
    return config


def instance(node_config: dict[str, Any]) -> str:
    parameters = node_config.get("azure_arm_parameters", {})
    return node_config.get("InstanceType") or node_config.get("machineType") or parameters["vmSize"]


def is_spot(node_config: dict[str, Any]) -> bool:
    return "spot" in (
        node_config.get("InstanceMarketOptions", {}).get("MarketType"),
        node_config.get("scheduling", {}).get("provisioningModel", "").lower(),
        node_config.get("azure_arm_parameters", {}).get("priority", "").lower(),
    )


@pytest.mark.parametrize("name", FILES)
def test_ray_prepares_and_validates_it(name: str) -> None:
    config = prepared(name)
    assert config["provider"]["type"] == {"on-prem": "local"}.get(name, name)


@pytest.mark.parametrize("name", FILES)
def test_nothing_of_rays_defaults_is_run(name: str) -> None:
    """Defaults install a wheel of Ray's main branch and bind the dashboard to all addresses."""
    written = launcher_file(name)
    for key in COMMANDS:
        assert key in written or (name == "on-prem" and key == "initialization_commands")
    commands = [each for key in COMMANDS for each in prepared(name)[key]]
    assert not [each for each in commands if re.search(r"0\.0\.0\.0|ray-wheels|\[default\]", each)]
    assert set(map(str, commands)) == {each for key in COMMANDS for each in written[key]}


@pytest.mark.parametrize("name", CLOUDS)
def test_autoscaler_v2_reads_roles_and_time_outs(name: str) -> None:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig

    config = AutoscalingConfig(launcher_file(name), skip_content_hash=True)
    types = config.get_node_type_configs()
    roles = {each.name: each.labels["raykd-role"] for each in types.values()}
    assert set(roles.values()) == {"head", "student", "teacher", "data"}
    assert roles[config.get_head_node_type()] == "head"
    assert types[config.get_head_node_type()].resources == {"CPU": 0}
    for each in types.values():
        role = roles[each.name]
        if role == "student":
            assert each.min_worker_nodes == each.max_worker_nodes
        if role in ("teacher", "data"):
            assert each.min_worker_nodes == 0
            assert 60 <= each.idle_timeout_s <= 1800
    assert {"student", "teacher", "data"} <= {
        roles[each.name] for each in types.values() if each.max_worker_nodes
    }
    priorities = [types[each].priority for each, role in roles.items() if role == "teacher"]
    assert len(priorities) == len(set(priorities)), "which teacher comes first is left open"


@pytest.mark.parametrize("name", CLOUDS)
def test_head_and_students_stay_and_teachers_are_spot(name: str) -> None:
    for node_type in launcher_file(name)["available_node_types"].values():
        spot = is_spot(node_type["node_config"])
        assert spot == (node_type["labels"]["raykd-role"] == "teacher")


@pytest.mark.parametrize("name", CLOUDS)
def test_resources_are_those_of_the_machine(name: str) -> None:
    for name_, node_type in launcher_file(name)["available_node_types"].items():
        known = machine(instance(node_type["node_config"]))
        assert known is not None, f"{name_}: {instance(node_type['node_config'])}"
        assert node_type["resources"].get("GPU", 0) == known.gpus
        expected = 0 if name_ == "head" else known.cpus
        assert node_type["resources"]["CPU"] == expected, name_


@pytest.mark.parametrize("name", FILES)
def test_ray_start_takes_the_options(name: str) -> None:
    config = launcher_file(name)
    lines = [shlex.split(config[f"{each}_start_ray_commands"][-1]) for each in ("head", "worker")]
    head, worker = (
        ray_start_options(line[line.index("start", line.index("ray")) + 1 :]) for line in lines
    )
    assert head["head"]
    assert head["dashboard_host"] == "127.0.0.1"
    assert head["autoscaling_config"] == "~/ray_bootstrap_config.yaml"
    assert worker["address"] == f"$RAY_HEAD_IP:{head['port']}"


@pytest.mark.parametrize("name", FILES)
def test_every_process_asks_for_the_token_and_finds_its_file(name: str) -> None:
    config = launcher_file(name)
    environment = dict(
        each.removeprefix("-e ").split("=")
        for each in config["docker"]["run_options"]
        if each.startswith("-e ")
    )
    assert environment["RAY_AUTH_MODE"] == "token"
    mounts = config["file_mounts"]
    assert mounts == {environment["RAY_AUTH_TOKEN_PATH"]: "~/.ray/auth_token"}


@pytest.mark.parametrize("name", FILES)
def test_storage_is_mounted_where_the_container_sees_it(name: str) -> None:
    config = launcher_file(name)
    (mount,) = (each for each in config["initialization_commands"] if "sudo mount" in each)
    volumes = [each for each in config["docker"]["run_options"] if each.startswith("-v ")]
    assert volumes == ["-v /mnt/shared:/mnt/shared"]
    assert shlex.split(mount.rstrip("; }"))[-1] == "/mnt/shared"
    assert re.search(r"\bhard\b", mount), "a soft mount loses what was written"


@pytest.mark.parametrize("name", FILES)
def test_commands_are_shell(name: str) -> None:
    for key in COMMANDS:
        for command in launcher_file(name)[key]:
            done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FILES)
def test_image_is_that_of_this_version(name: str) -> None:
    assert launcher_file(name)["docker"]["image"] == f"{IMAGE}:{__version__}"


def test_azure_parameters_are_the_templates() -> None:
    """The node provider hands them to its template, which refuses others."""
    folder = Path(ray.__file__).parent / "autoscaler/_private/_azure"
    template = json.loads((folder / "azure-vm-template.json").read_text())["parameters"]
    kinds = {"string": str, "securestring": str, "int": int, "object": dict, "bool": bool}
    for name, node_type in launcher_file("azure")["available_node_types"].items():
        for key, value in node_type["node_config"]["azure_arm_parameters"].items():
            assert isinstance(value, kinds[template[key]["type"]]), f"{name}.{key}"


def test_azure_lets_in_ssh_alone() -> None:
    """The file names no group of its own, so this one of Ray's is what is open."""
    folder = Path(ray.__file__).parent / "autoscaler/_private/_azure"
    template = json.loads((folder / "azure-config-template.json").read_text())
    (group,) = (
        each
        for each in template["resources"]
        if each["type"] == "Microsoft.Network/networkSecurityGroups"
    )
    rules = [each["properties"] for each in group["properties"]["securityRules"]]
    assert [(each["direction"], each["destinationPortRange"]) for each in rules] == [
        ("Inbound", "22")
    ]


def checked_against(value: Any, name: str, schemas: dict[str, Any], at: str) -> None:
    """A value against a schema of Google's discovery document."""
    for key, field in value.items():
        assert key in schemas[name], f"{at}.{key}: {name} has no such field"
        kind = schemas[name][key]
        for each in field if kind.get("array") else [field]:
            if "ref" in kind:
                checked_against(each, kind["ref"], schemas, f"{at}.{key}")
            elif "enum" in kind:
                assert each in kind["enum"], f"{at}.{key}: {each}"
            else:
                assert isinstance(each, {"string": str | int, "boolean": bool}[kind["type"]])


def test_gcp_node_configs_are_compute_engines() -> None:
    schemas = json.loads((Path(__file__).parent / "compute_v1_instance.json").read_text())
    for name, node_type in launcher_file("gcp")["available_node_types"].items():
        checked_against(node_type["node_config"], "Instance", schemas["schemas"], name)
    broken = copy.deepcopy(launcher_file("gcp")["available_node_types"]["head"]["node_config"])
    broken["networkInterfaces"][0]["nicType"] = "FAST"
    with pytest.raises(AssertionError, match="nicType"):
        checked_against(broken, "Instance", schemas["schemas"], "head")


def test_gcp_keeps_to_its_zone_and_network() -> None:
    config = launcher_file("gcp")
    provider = config["provider"]
    assert provider["availability_zone"].startswith(provider["region"])
    for node_type in config["available_node_types"].values():
        node = node_type["node_config"]
        disk = node["disks"][0]["initializeParams"]["diskType"]
        assert disk.startswith(f"zones/{provider['availability_zone']}/")
        subnet = node["networkInterfaces"][0]["subnetwork"]
        assert subnet.startswith(
            f"projects/{provider['project_id']}/regions/{provider['region']}/subnetworks/"
        )


class TestOnPrem:
    """Ray gives such machines neither labels nor resources, so a command finds the role."""

    @pytest.fixture
    def role_of(self, tmp_path: Path) -> Any:
        command = launcher_file("on-prem")["worker_start_ray_commands"][-1]
        (tmp_path / "ray").write_text('#!/bin/sh\necho "$@"\n')
        (tmp_path / "hostname").write_text('#!/bin/sh\necho "$ADDRESSES"\n')
        for each in tmp_path.iterdir():
            each.chmod(0o755)

        def run(addresses: str) -> tuple[int, str]:
            environment = os.environ | {
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
                "ADDRESSES": addresses,
                "RAY_HEAD_IP": "192.0.2.10",
            }
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            return done.returncode, done.stdout

        return run

    def test_each_address_has_the_role_that_metadata_counts(self, role_of: Any) -> None:
        config = launcher_file("on-prem")
        found: dict[str, int] = {}
        for address in config["provider"]["worker_ips"]:
            code, arguments = role_of(f"10.0.0.5 {address} fe80::1")
            assert code == 0
            options = ray_start_options(shlex.split(arguments)[1:])
            role = options["labels"].removeprefix("raykd-role=")
            found[role] = found.get(role, 0) + 1
        described = config["metadata"]["raykd"]["node_types"]
        assert found == {name: row["nodes"] for name, row in described.items() if name != "head"}

    def test_a_machine_without_a_line_does_not_join(self, role_of: Any) -> None:
        assert role_of("192.0.2.111") == (1, "")

    def test_the_head_has_no_cpus_and_its_label(self) -> None:
        line = shlex.split(launcher_file("on-prem")["head_start_ray_commands"][-1])
        options = ray_start_options(line[2:])
        assert (options["num_cpus"], options["labels"]) == (0, "raykd-role=head")


def test_no_file_is_left_out() -> None:
    assert {each.stem for each in CLUSTER.glob("*.yaml")} == {*FILES, "skypilot"}
