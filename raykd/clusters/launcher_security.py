"""Who can reach a launcher's cluster, and whether it asks for a token."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from raykd.clusters.documents import Document, mapping
from raykd.clusters.finding import Finding, consider, fix
from raykd.clusters.launcher import LauncherProvider, start_commands, started_with

SSH_PORT = 22
TOKEN_MODE = re.compile(r"RAY_AUTH_MODE[=:\s]+[\"']?token\b")
TOKEN_SOURCE = re.compile(r"RAY_AUTH_TOKEN_PATH|auth_token|get-auth-token|RAY_AUTH_TOKEN\b")
PRIVATE_4 = tuple(
    map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"))
)
PRIVATE_6 = tuple(map(ipaddress.IPv6Network, ("fc00::/7", "fe80::/10")))
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def auth_findings(document: Document) -> Iterator[Finding]:
    """Is token authentication on for head and workers, and does a token reach them?"""
    shared = _words(document, "docker.run_options", "setup_commands", "initialization_commands")
    for side in ("head", "worker"):
        own = _words(
            document,
            f"docker.{side}_run_options",
            f"{side}_setup_commands",
            f"{side}_start_ray_commands",
        )
        if not TOKEN_MODE.search(shared + own):
            yield fix(
                "auth",
                f"{side}: RAY_AUTH_MODE=token is not set; without it whoever reaches the ports "
                "can run code: set it before `ray start`, or in docker.run_options",
                document.line(f"{side}_start_ray_commands"),
            )
    mounts = " ".join(map(str, mapping(document.tree.get("file_mounts"))))
    everything = " ".join(map(str, _all_words(document))) + mounts
    if not TOKEN_SOURCE.search(everything):
        yield consider(
            "auth",
            "no command or file mount brings the token (~/.ray/auth_token, RAY_AUTH_TOKEN_PATH)",
            document.line("file_mounts"),
        )


def _all_words(document: Document) -> Iterator[str]:
    for key, value in document.tree.items():
        if str(key).endswith("commands") and isinstance(value, list):
            yield from map(str, value)
    for value in mapping(document.tree.get("docker")).values():
        if isinstance(value, list):
            yield from map(str, value)


def _words(document: Document, *paths: str) -> str:
    found: list[str] = []
    for path in paths:
        value: Any = document.tree
        for key in path.split("."):
            value = mapping(value).get(key)
        found += [str(each) for each in value] if isinstance(value, list) else []
    return "\n".join(found)


def port_findings(document: Document, provider: LauncherProvider) -> Iterator[Finding]:
    """The dashboard at home, and nothing but SSH open to the world."""
    yield from _dashboard(document, provider)
    if provider == "aws":
        yield from _security_group(document)


def _dashboard(document: Document, provider: LauncherProvider) -> Iterator[Finding]:
    line = document.line("head_start_ray_commands")
    if not start_commands(document, head=True):
        if provider != "on-prem":
            yield fix(
                "ports",
                "no head_start_ray_commands: Ray's own bind the dashboard to 0.0.0.0; give them, "
                "with --dashboard-host=127.0.0.1",
                line,
            )
        return
    host = started_with(document, "dashboard-host", head=True)
    if host is not None and host not in LOCAL_HOSTS:
        commands = start_commands(document, head=True)
        at = next(i for i, each in enumerate(commands) if "dashboard-host" in each)
        yield fix(
            "ports",
            f"--dashboard-host {host}: dashboard and job API listen outside the head; bind them "
            "to 127.0.0.1 and reach them by `ray dashboard` or an SSH tunnel",
            document.line("head_start_ray_commands", at),
        )


def _security_group(document: Document) -> Iterator[Finding]:
    rules = mapping(mapping(document.tree.get("provider")).get("security_group")).get(
        "IpPermissions"
    )
    for i, rule in enumerate(rules if isinstance(rules, list) else []):
        sources = list(_from_outside(mapping(rule)))
        if sources and not _only_ssh(mapping(rule)):
            yield fix(
                "ports",
                f"ports {_ports(mapping(rule))} are open to {', '.join(sources)}; leave SSH (22) "
                "and reach the rest through it",
                document.line("provider", "security_group", "IpPermissions", i),
            )
    for name, row in mapping(document.tree.get("available_node_types")).items():
        if "SecurityGroupIds" in mapping(mapping(row).get("node_config")):
            yield consider(
                "ports",
                f"{name}: its security groups are made elsewhere; only SSH should be open there",
                document.line("available_node_types", name, "node_config", "SecurityGroupIds"),
            )


def _from_outside(rule: Mapping[str, Any]) -> Iterator[str]:
    """Sources of a rule that are not wholly within private networks."""
    for key, field in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6")):
        rows = rule.get(key)
        for row in rows if isinstance(rows, list) else []:
            source = str(mapping(row).get(field, ""))
            if not _is_private(source):
                yield source


def _is_private(source: str) -> bool:
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        return False
    if isinstance(network, ipaddress.IPv6Network):
        return any(network.subnet_of(each) for each in PRIVATE_6)
    return any(network.subnet_of(each) for each in PRIVATE_4)


def _only_ssh(rule: Mapping[str, Any]) -> bool:
    return rule.get("FromPort") == SSH_PORT and rule.get("ToPort") == SSH_PORT


def _ports(rule: Mapping[str, Any]) -> str:
    first, last = rule.get("FromPort"), rule.get("ToPort")
    if first is None or first == -1:
        return "of all numbers"
    return f"{first}" if first == last else f"{first} to {last}"
