"""Images and the Ray in them."""

from __future__ import annotations

import re

VERSION = r"(\d+\.\d+\.\d+)"
MOVING_TAGS = ("latest", "nightly", "main", "master", "edge", "dev", "stable")


def is_pinned(image: str) -> bool:
    """Whether an image's name says which one it is: by digest, or by a tag that does not move."""
    if "@sha256:" in image:
        return True
    tag = tag_of(image)
    return tag is not None and tag.partition("-")[0] not in MOVING_TAGS


def tag_of(image: str) -> str | None:
    """The tag; None where there is none. A registry's port is none."""
    _, colon, tag = image.rpartition("/")[2].partition(":")
    return tag.partition("@")[0] if colon else None


def ray_version_in(image: str) -> str | None:
    """The Ray of one of Ray's own images, from its tag; None for others."""
    name = image.partition("@")[0]
    if "rayproject/ray" not in name:
        return None
    found = re.match(VERSION, tag_of(image) or "")
    return found[1] if found else None


def ray_version_installed_by(command: str) -> str | None:
    """The Ray that a shell command pins: `pip install "ray[default]==2.60.0"`."""
    found = re.search(rf"\bray(?:\[[\w,-]+\])?=={VERSION}", command)
    return found[1] if found else None


def installs_any_ray(command: str) -> bool:
    """Whether a command installs Ray without saying which, or one that is no release."""
    if "pip install" not in command and "uv pip" not in command:
        return False
    unpinned = re.search(r"(?<![\w/-])ray(?:\[[\w,-]+\])?(?=[\s\"';]|$)(?!\s*@)", command)
    return bool(unpinned) or "ray-3.0.0.dev0" in command
