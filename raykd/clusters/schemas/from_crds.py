"""Makes kuberay-v1.json: `python -m raykd.clusters.schemas.from_crds CRD...`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

OUTPUT = Path(__file__).with_name("kuberay-v1.json")
VERSION = "v1"

KEPT: tuple[str, ...] = (
    "type",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "required",
)
KEPT += ("minLength", "maxLength", "minProperties", "maxProperties", "uniqueItems")
SHARED_FROM = 200
"""Characters from which equal parts are written once: a pod stands in every CRD several times."""


def schema_of(crds: list[Path]) -> dict[str, Any]:
    """One schema for all kinds: `{"kinds": {kind: schema}, "$defs": ...}`."""
    parts: dict[str, str] = {}
    kinds = {}
    for path in crds:
        crd = yaml.safe_load(path.read_text(encoding="utf-8"))
        [version] = [v for v in crd["spec"]["versions"] if v["name"] == VERSION]
        kind = crd["spec"]["names"]["kind"]
        kinds[kind] = _shared(closed(version["schema"]["openAPIV3Schema"]), parts)
    return _with_used_once_inlined(kinds, parts)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without prose, in which keys that are not listed are wrong."""
    out: dict[str, Any] = {key: schema[key] for key in KEPT if key in schema}
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            out[key] = [closed(each) for each in schema[key]]
    if "items" in schema:
        out["items"] = closed(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = closed(schema["additionalProperties"])
    if "properties" in schema:
        out["properties"] = {name: closed(each) for name, each in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    if schema.get("nullable") and "type" in out:
        out["type"] = [out["type"], "null"]
    return out


def _shared(value: Any, parts: dict[str, str]) -> Any:
    """Replace every large part by a reference; the innermost first."""
    if isinstance(value, list):
        return [_shared(each, parts) for each in value]
    if not isinstance(value, dict):
        return value
    value = {key: _shared(each, parts) for key, each in value.items()}
    text = json.dumps(value, sort_keys=True)
    # A mapping of properties may have one that is called `type`: that one's value is a mapping.
    if len(text) < SHARED_FROM or not isinstance(value.get("type"), str | list):
        return value
    return {"$ref": f"#/$defs/{parts.setdefault(text, str(len(parts)))}"}


def _with_used_once_inlined(kinds: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
    bodies = {name: json.loads(text) for text, name in parts.items()}
    everything = json.dumps([kinds, list(bodies.values())])
    uses = {name: everything.count(f'"#/$defs/{name}"') for name in bodies}

    def inlined(value: Any) -> Any:
        if isinstance(value, list):
            return [inlined(each) for each in value]
        if not isinstance(value, dict):
            return value
        name = str(value.get("$ref", "")).rpartition("/")[2]
        if name and uses[name] == 1:
            return inlined(bodies[name])
        return {key: inlined(each) for key, each in value.items()}

    return {
        "kinds": inlined(kinds),
        "$defs": {name: inlined(body) for name, body in bodies.items() if uses[name] > 1},
    }


if __name__ == "__main__":
    made = schema_of([Path(each) for each in sys.argv[1:]])
    OUTPUT.write_text(json.dumps(made, sort_keys=True, separators=(",", ":")) + "\n")
