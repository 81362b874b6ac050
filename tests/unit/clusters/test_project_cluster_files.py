"""The cluster files that come with raykd have nothing to fix."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raykd.clusters.check import check_cluster
from raykd.clusters.kind import KUSTOMIZATIONS
from raykd.clusters.read import read_hardware

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"


def is_part(path: Path) -> bool:
    """Whether a file is a kustomization, or a patch that one of them applies: no whole manifest."""
    if path.name in KUSTOMIZATIONS:
        return True
    for name in KUSTOMIZATIONS:
        around = path.parent / name
        if around.is_file():
            tree = yaml.safe_load(around.read_text())
            patches = [each.get("path") for each in tree.get("patches", [])]
            return path.name in patches
    return False


FILES = sorted(
    path for ending in ("yaml", "yml") for path in CLUSTER.rglob(f"*.{ending}") if not is_part(path)
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_nothing_to_fix(path: Path) -> None:
    found = [each for each in check_cluster(path) if each.level == "fix this"]
    assert found == []


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "azure.yaml", "on-prem.yaml"])
def test_launcher_files_have_every_role(name: str) -> None:
    hardware = read_hardware(CLUSTER / name)
    for role in ("head", "student", "teacher"):
        assert hardware.of_role(role), role  # type: ignore[arg-type]
    assert all(each.max_nodes == 1 and each.cpus == 0 for each in hardware.of_role("head"))
