"""What is no cluster file is refused in one line that says what it seems to be."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster_cases import AWS, written

from raykd.clusters.kind import read_kind
from raykd.errors import JobError

OTHERS = {
    "": "empty",
    "# only a comment\n": "empty",
    "just text\n": "str, not a mapping",
    "- a\n- b\n": "list, not a mapping",
    "a: [1\n": "not valid YAML",
    "a: {{ .Values.x }}\n": "a template",
    "a: 1\na: 2\n": "'a' is given twice",
    "a: !!python/object:os.system {}\n": "not valid YAML",
    "name: x\nteacher: {}\nstudent: {}\n": "a job of raykd",
    "services: {web: {image: x}}\n": "Docker Compose",
    "AWSTemplateFormatVersion: '2010-09-09'\nResources: {}\n": "CloudFormation",
    "apiVersion: v2\nname: chart\nversion: 1.0.0\n": "a Helm chart",
    "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n": "kubectl kustomize",
    "resources: [base]\npatches: []\nkind: Kustomization\n": "kubectl kustomize",
    "#!/bin/bash\n#SBATCH --nodes=2\nsrun ray start\n": "a Slurm batch script",
    "#!/bin/sh\necho\n": "a script",
    "foo: 1\nbar: 2\n": "its keys: foo, bar",
    AWS + "---\n" + AWS: "a second document",
}


@pytest.mark.parametrize("text", OTHERS, ids=OTHERS.values())
def test_what_is_no_cluster_file(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(JobError, match=OTHERS[text]) as error:
        read_kind(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_binary_and_directories(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no such cluster file"):
        read_kind(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(JobError, match="not UTF-8 at byte 0"):
        read_kind(tmp_path / "binary")
    with pytest.raises(JobError, match="a directory; name one file"):
        read_kind(tmp_path)
    (tmp_path / "kustomization.yaml").write_text("resources: []\n")
    with pytest.raises(JobError, match="kubectl kustomize"):
        read_kind(tmp_path)


def test_an_alias_bomb_is_refused_quickly(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    with pytest.raises(JobError, match="an alias repeats itself"):
        read_kind(written(tmp_path, "\n".join(lines)))


def test_anchors_and_merges_keep_their_lines(tmp_path: Path) -> None:
    text = AWS.replace("  student:\n", "  student: &gpu\n") + "x: 1\n"
    text = text.replace("  teacher:\n", "  teacher:\n    <<: *gpu\n")
    kind, [document] = read_kind(written(tmp_path, text))
    teacher = document.tree["available_node_types"]["teacher"]
    assert kind == "launcher"
    assert (teacher["max_workers"], teacher["labels"]) == (4, {"raykd-role": "teacher"})
    at = ("available_node_types", "teacher", "max_workers")
    assert text.splitlines()[document.line(*at) - 1] == "    max_workers: 4"
    assert document.line("x") == text.count("\n")
