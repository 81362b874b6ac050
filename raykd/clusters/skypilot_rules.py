"""What a SkyPilot task should be: image, token, dashboard."""

from __future__ import annotations

import re
from collections.abc import Iterator

from raykd.clusters.documents import Document, mapping
from raykd.clusters.finding import Finding, consider, fix
from raykd.clusters.launcher_security import LOCAL_HOSTS, TOKEN_MODE
from raykd.clusters.software import image_findings


def image_findings_of(document: Document) -> Iterator[Finding]:
    """Is the image pinned?"""
    image = mapping(document.tree.get("resources")).get("image_id")
    line = document.line("resources", "image_id")
    if isinstance(image, str) and image.startswith("docker:"):
        yield from image_findings(image.removeprefix("docker:"), line)
    elif image is None:
        yield consider("image", "no image_id: the nodes take SkyPilot's own image", line)


def auth_findings(document: Document) -> Iterator[Finding]:
    """Is token authentication on for every Ray process?"""
    in_environment = mapping(document.tree.get("envs")).get("RAY_AUTH_MODE") == "token"
    if not in_environment and not TOKEN_MODE.search(str(document.tree.get("run", ""))):
        yield fix(
            "auth",
            "RAY_AUTH_MODE=token is not set; without it whoever reaches the ports can run code: "
            "envs: {RAY_AUTH_MODE: token}",
            document.line("envs"),
        )


def port_findings(document: Document) -> Iterator[Finding]:
    """The dashboard at home, and no port opened."""
    for host in re.findall(r"--dashboard-host[= ]+(\S+)", str(document.tree.get("run", ""))):
        if host not in LOCAL_HOSTS:
            yield fix(
                "ports",
                f"--dashboard-host {host}: dashboard and job API listen outside the head; bind "
                "them to 127.0.0.1",
                document.line("run"),
            )
    if mapping(document.tree.get("resources")).get("ports"):
        yield fix(
            "ports",
            "resources.ports opens ports to the outside; leave it out and use an SSH tunnel",
            document.line("resources", "ports"),
        )
