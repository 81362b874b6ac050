"""AWS `node_config` against the model of EC2's RunInstances that botocore brings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

from raykd.clusters.documents import Document, KeyPath, mapping
from raykd.clusters.finding import Finding, consider, fix

SUBJECT = "node_config"

RAYS_OWN = ("SubnetIds",)
"""Keys that Ray takes out before it calls EC2."""
COUNTS = {"MinCount": 1, "MaxCount": 1}
"""What Ray puts in itself."""


def aws_findings(document: Document) -> Iterator[Finding]:
    """Validate the `node_config` of every node type."""
    if find_spec("botocore") is None:
        yield Finding(
            "unchecked", SUBJECT, "against EC2's RunInstances: pip install botocore to have it"
        )
        return
    shape = _run_instances()
    for name, row in mapping(document.tree.get("available_node_types")).items():
        at: KeyPath = ("available_node_types", name, "node_config")
        config = dict(mapping(mapping(row).get("node_config")))
        params = {key: value for key, value in config.items() if key not in RAYS_OWN} | COUNTS
        yield from _invalid(document, at, params, shape)
        yield from _unknown_values(document, at, params, shape)


@cache
def _run_instances() -> Any:
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    # The model as it lies in the package: no session, so no configuration and no credentials.
    model = Loader().load_service_model("ec2", "service-2")
    return ServiceModel(model).operation_model("RunInstances").input_shape


def _invalid(
    document: Document, at: KeyPath, params: dict[str, Any], shape: Any
) -> Iterator[Finding]:
    from botocore.validate import ParamValidator

    report = ParamValidator().validate(params, shape).generate_report()
    for line in filter(None, report.splitlines()):
        path = _path_in(line)
        text = re.sub(r", must be one of: (.{120}).*", r", must be one of: \1...", line)
        yield fix(SUBJECT, f"{at[1]}: {text}", document.line(*at, *path))


def _path_in(report_line: str) -> KeyPath:
    """Where botocore's sentence points: `... in BlockDeviceMappings[0].Ebs: "Size", ...`."""
    place = re.search(r"parameter (?:in )?([A-Za-z][\w.\[\]]*)", report_line)
    names = re.findall(r"\w+", place[1]) if place and place[1] != "input" else []
    key = re.search(r': "([^"]+)"', report_line)
    if key:
        names.append(key[1])
    return tuple(int(name) if name.isdigit() else name for name in names)


def _unknown_values(
    document: Document, at: KeyPath, value: Any, shape: Any, inside: KeyPath = ()
) -> Iterator[Finding]:
    """Values that this botocore has not in its lists: a typing error, or newer than it."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, each in value.items():
            if key in shape.members:
                yield from _unknown_values(document, at, each, shape.members[key], (*inside, key))
    elif shape.type_name == "list" and isinstance(value, list):
        for i, each in enumerate(value):
            yield from _unknown_values(document, at, each, shape.member, (*inside, i))
    elif isinstance(value, str) and getattr(shape, "enum", None) and value not in shape.enum:
        choices = f"; choose {', '.join(shape.enum)}" if len(shape.enum) <= 12 else ""
        yield consider(
            SUBJECT,
            f"{at[1]}: {inside[-1]}: {value!r} is not known to the installed botocore{choices}",
            document.line(*at, *inside),
        )
