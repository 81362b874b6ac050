"""Each rule for SkyPilot tasks: the good task passes, one thing spoilt is named by line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_cases import RAY, complaints, line_of, spoilt

TASK = f"""\
num_nodes: 2
resources:
  cpus: 96+
  accelerators: H100:8
  image_id: docker:rayproject/ray:{RAY}-py311
envs:
  RAY_AUTH_MODE: token
run: |
  ray start --head --dashboard-host=127.0.0.1
"""


def test_a_good_task_has_nothing_to_fix_or_consider(tmp_path: Path) -> None:
    assert complaints(tmp_path, TASK) == []
    within = TASK.replace("  RAY_AUTH_MODE: token", "  X: y")
    within = within.replace("  ray start", "  export RAY_AUTH_MODE=token\n  ray start")
    assert complaints(tmp_path, within) == []


@pytest.mark.parametrize(
    ("old", "new", "where", "level", "subject"),
    [
        (f":{RAY}-py311", ":latest", "image_id", "fix this", "image"),
        (f"  image_id: docker:rayproject/ray:{RAY}-py311\n", "", "resources", "consider", "image"),
        ("RAY_AUTH_MODE: token", "RAY_AUTH_MODE: none", "envs", "fix this", "auth"),
        ("host=127.0.0.1", "host=0.0.0.0", "run:", "fix this", "ports"),
        ("  cpus: 96+\n", "  cpus: 96+\n  ports: 8265\n", "ports: 8265", "fix this", "ports"),
        ("  cpus: 96+\n", "", "resources", "fix this", "hardware"),
        ("H100:8", "{H100: 8, A100: 8}", "accelerators", "fix this", "hardware"),
        ("cpus: 96+", "cpus: lots", "cpus: lots", "fix this", "hardware"),
    ],
)
def test_one_thing_spoilt_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, where: str, level: str, subject: str
) -> None:
    bad = spoilt(TASK, old, new)
    found = [(each.level, each.subject, each.line) for each in complaints(tmp_path, bad)]
    assert found == [(level, subject, line_of(bad, where))]
