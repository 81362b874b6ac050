"""Images and Ray versions: pinned, and the same as here."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from raykd.clusters.finding import Finding, fix
from raykd.clusters.images import is_pinned, ray_version_in

SUBJECT = "image"


def image_findings(image: str, line: int | None) -> Iterator[Finding]:
    """One image: does its name say which one it is, and is its Ray the one of this machine?"""
    if not is_pinned(image):
        yield fix(
            SUBJECT,
            f"{image} may be another image tomorrow, and on another node; name a version or a "
            "digest",
            line,
        )
    found = ray_version_in(image)
    if found:
        yield from version_findings(found, image, line)


def version_findings(found: str, where: str, line: int | None) -> Iterator[Finding]:
    """One Ray version against the one that is installed here."""
    here = version("ray")
    if found != here:
        yield fix(
            SUBJECT,
            f"{where}: Ray {found}, and here Ray {here}; client, head and workers must be of one "
            "version",
            line,
        )
