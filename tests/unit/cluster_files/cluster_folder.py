"""The files of cluster/, and what reads them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CLUSTER = ROOT / "cluster"
IMAGE = "registry.example.com/raykd"


def installed(tool: str) -> str:
    """A tool of this environment, or of the machine."""
    beside = Path(sys.executable).parent / tool
    found = str(beside) if beside.is_file() else shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    return found


def launcher_file(name: str) -> dict[str, Any]:
    """A file for Ray's cluster launcher, as written."""
    return yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())


def ray_start_options(arguments: list[str]) -> dict[str, Any]:
    """What Ray's own command line makes of `ray start ARGUMENTS`; it refuses what it lacks."""
    from ray.scripts.scripts import start

    return start.make_context("start", list(arguments)).params


def rendered(folder: str) -> list[dict[str, Any]]:
    """The manifests of a kustomization, by kubectl."""
    done = subprocess.run(
        [installed("kubectl"), "kustomize", str(CLUSTER / "kuberay" / folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(manifests: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The only manifest of a kind."""
    (found,) = (each for each in manifests if each["kind"] == kind)
    return found
