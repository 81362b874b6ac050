"""What a cluster file is: told by its content, never by its name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from raykd.clusters.documents import Document, read_documents, read_text
from raykd.errors import JobError

Kind = Literal["launcher", "kuberay", "kubernetes", "skypilot"]

ALLOWED = "a cluster file is YAML for Ray's cluster launcher, KubeRay manifests, or a SkyPilot task"
RAY_KINDS = ("RayCluster", "RayJob", "RayService")
KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")


def read_kind(path: Path) -> tuple[Kind, list[Document]]:
    """Read a cluster file and say what it is.

    Returns:
        `launcher` (Ray's cluster launcher), `kuberay`, `kubernetes` (manifests without a Ray
        cluster) or `skypilot`; and its documents.

    Raises:
        JobError: It is none of these; names what it seems to be and what is allowed.
    """
    _refuse_other_files(path)
    documents = read_documents(path)
    kinds = [_kind(document, path) for document in documents]
    if "kuberay" in kinds:
        return "kuberay", documents
    if len(documents) > 1 and kinds[0] != "kubernetes":
        line = documents[1].first_line
        raise JobError(f"{path}:{line}: a second document; a {kinds[0]} file has one")
    return kinds[0], documents


def _refuse_other_files(path: Path) -> None:
    if path.is_dir():
        if any((path / name).is_file() for name in KUSTOMIZATIONS):
            raise JobError(
                f"{path}: a kustomize directory; render it and check what comes out: "
                f"kubectl kustomize {path} > rendered.yaml"
            )
        raise JobError(f"{path}: a directory; name one file of it")
    if path.suffix in (".tf", ".hcl"):
        raise JobError(f"{path}: Terraform; {ALLOWED}")
    text = read_text(path)
    if re.search(r"^#SBATCH", text, re.MULTILINE):
        raise JobError(
            f"{path}: a Slurm batch script; what nodes it gets is Slurm's to say, so it cannot be "
            f"read here: {ALLOWED}"
        )
    if text.startswith("#!"):
        raise JobError(f"{path}: a script; {ALLOWED}")


def _kind(document: Document, path: Path) -> Kind:
    tree, place = document.tree, f"{path}:{document.first_line}"
    if not isinstance(tree, dict):
        raise JobError(f"{place}: {type(tree).__name__}, not a mapping of keys; {ALLOWED}")
    group = str(tree.get("apiVersion", "")).partition("/")[0]
    if tree.get("kind") == "Kustomization" or group == "kustomize.config.k8s.io":
        raise JobError(
            f"{place}: a kustomization; render it and check what comes out: "
            f"kubectl kustomize {path.parent} > rendered.yaml"
        )
    if "apiVersion" in tree and "kind" in tree:
        return _kubernetes_kind(document, path)
    if any(key in tree for key in ("cluster_name", "provider", "available_node_types")):
        return "launcher"
    if "resources" in tree and any(key in tree for key in ("run", "setup", "num_nodes", "workdir")):
        return "skypilot"
    raise JobError(f"{place}: {_seems(tree)}; {ALLOWED}")


def _kubernetes_kind(document: Document, path: Path) -> Kind:
    version, kind = document.tree["apiVersion"], document.tree["kind"]
    if str(version).partition("/")[0] != "ray.io":
        return "kubernetes"
    if kind not in RAY_KINDS:
        raise JobError(
            f"{path}:{document.line('kind')}: kind: {kind}; of ray.io raykd knows "
            f"{', '.join(RAY_KINDS)}"
        )
    if version != "ray.io/v1":
        raise JobError(
            f"{path}:{document.line('apiVersion')}: apiVersion: {version}; KubeRay serves "
            "ray.io/v1: write that"
        )
    return "kuberay"


def _seems(tree: dict[Any, Any]) -> str:
    if "teacher" in tree and "student" in tree:
        return "a job of raykd: give it as JOB, without --cluster"
    if "services" in tree:
        return "a Docker Compose file"
    if "Resources" in tree or "AWSTemplateFormatVersion" in tree:
        return "a CloudFormation template"
    if {"name", "version"} <= tree.keys() and "apiVersion" in tree:
        return "a Helm chart: render it (helm template) and check what comes out"
    if "hosts" in tree or "all" in tree:
        return "an Ansible inventory"
    keys = ", ".join(str(key) for key in list(tree)[:5])
    return f"neither (its keys: {keys})"
