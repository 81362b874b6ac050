"""The schema made of CRDs: closed where it lists keys, the same when parts are shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from raykd.clusters.kuberay_schema import SCHEMAS, schema_of
from raykd.clusters.schemas.from_crds import schema_of as schema_made_of

POD: dict[str, Any] = {
    "type": "object",
    "description": "prose " * 50,
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        # A property of that name must not be taken for the schema's own `type`.
        "type": {"type": "object", "properties": {f"key{i}": {"type": "string"} for i in range(9)}},
        "port": {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
        },
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "maybe": {"type": "string", "nullable": True},
    },
}
CRD = {
    "spec": {
        "names": {"kind": "Thing"},
        "versions": [
            {"name": "v1alpha1", "schema": {"openAPIV3Schema": {"type": "string"}}},
            {
                "name": "v1",
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {"head": POD, "worker": POD},
                    }
                },
            },
        ],
    }
}


def problems(tmp_path: Path, thing: Any) -> list[str]:
    path = tmp_path / "crd.yaml"
    path.write_text(yaml.safe_dump(CRD))
    made = schema_made_of([path])
    assert len(made["$defs"]) == 1
    schema = {**made["kinds"]["Thing"], "$defs": made["$defs"]}
    Draft202012Validator.check_schema(schema)
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(thing)]


def test_what_the_crd_allows(tmp_path: Path) -> None:
    pod = {
        "name": "a",
        "type": {"key1": "b"},
        "port": 80,
        "free": {"any": 1},
        "labels": {"x": "y"},
        "maybe": None,
    }
    assert problems(tmp_path, {"head": pod, "worker": {**pod, "port": "http"}}) == []


def test_what_it_does_not(tmp_path: Path) -> None:
    assert problems(tmp_path, {"haed": {}}) == ["$"]
    assert problems(tmp_path, {"worker": {"name": "a", "nmae": "b"}}) == ["$.worker"]
    assert problems(tmp_path, {"worker": {"name": "a", "type": {"key99": "b"}}}) == [
        "$.worker.type"
    ]
    assert problems(tmp_path, {"worker": {}}) == ["$.worker"]
    assert problems(tmp_path, {"worker": {"name": None}}) == ["$.worker.name"]
    assert problems(tmp_path, {"worker": {"name": "a", "labels": {"x": 1}}}) == [
        "$.worker.labels.x"
    ]


def test_the_schemas_that_come_along() -> None:
    assert SCHEMAS.stat().st_size < 100_000
    for kind in ("RayCluster", "RayJob", "RayService"):
        assert "authOptions" in str(schema_of(kind))
    Draft202012Validator.check_schema(schema_of("RayCluster"))
