"""KubeRay manifests against KubeRay's own definitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document
from raykd.clusters.finding import Finding
from raykd.clusters.kind import RAY_KINDS
from raykd.clusters.schema_errors import schema_findings

SCHEMAS = Path(__file__).parent / "schemas" / "kuberay-v1.json"


def kuberay_schema_findings(documents: list[Document]) -> Iterator[Finding]:
    """Validate every RayCluster, RayJob and RayService."""
    for document in documents:
        kind = document.tree.get("kind")
        if kind in RAY_KINDS and str(document.tree.get("apiVersion")).startswith("ray.io/"):
            yield from schema_findings(document, document.tree, schema_of(str(kind)), "schema")


def schema_of(kind: str) -> dict[str, Any]:
    """The schema of one kind, with the parts that all kinds share."""
    everything = _everything()
    schema: dict[str, Any] = everything["kinds"][kind]
    return {**schema, "$defs": everything["$defs"]}


@cache
def _everything() -> dict[str, Any]:
    schemas: dict[str, Any] = json.loads(SCHEMAS.read_text(encoding="utf-8"))
    return schemas
