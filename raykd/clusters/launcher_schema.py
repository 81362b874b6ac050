"""Ray's own rules for a launcher file: its schema, and what `ray up` looks at before any cloud."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document, mapping
from raykd.clusters.finding import Finding, fix
from raykd.clusters.launcher import DEFAULT_MAX_WORKERS
from raykd.clusters.schema_errors import schema_findings

SUBJECT = "schema"


def ray_schema() -> dict[str, Any]:
    """The schema of the installed Ray, found without importing it."""
    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    schema: dict[str, Any] = json.loads((root / "autoscaler" / "ray-schema.json").read_text())
    return schema


def launcher_schema_findings(document: Document) -> Iterator[Finding]:
    """The schema first; where it agrees, the counts; where those agree, Ray's own code."""
    tree = _with_resources(document.tree)
    found = [*schema_findings(document, tree, ray_schema(), SUBJECT), *_counts(document)]
    yield from found
    if not found and (reason := _refused_by_ray(tree)):
        yield fix(SUBJECT, f"Ray refuses it: {reason}", document.first_line)


def _with_resources(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree with `resources` on every node type: for a cloud Ray asks the provider for them."""
    tree = copy.deepcopy(tree)
    for row in mapping(tree.get("available_node_types")).values():
        if isinstance(row, dict):
            row.setdefault("resources", {})
    return tree


def _counts(document: Document) -> Iterator[Finding]:
    """Fewest and most nodes of each type, and of all together."""
    types = mapping(document.tree.get("available_node_types"))
    head = document.tree.get("head_node_type")
    if types and (not isinstance(head, str) or head not in types):
        found = "missing" if head is None else f"{head!r} is no node type"
        yield fix(
            SUBJECT,
            f"head_node_type: {found}; choose {', '.join(types)}",
            document.line("head_node_type"),
        )
    limit = document.tree.get("max_workers", DEFAULT_MAX_WORKERS)
    least = 0
    for name in types:
        row = mapping(types[name])
        low, high = row.get("min_workers", 0), row.get("max_workers", limit)
        if not isinstance(low, int) or not isinstance(high, int) or not isinstance(limit, int):
            continue
        least += low
        line = document.line("available_node_types", name, "min_workers")
        if low < 0 or high < 0:
            yield fix(SUBJECT, f"{name}: a number of nodes below 0", line)
        elif low > high:
            yield fix(SUBJECT, f"{name}: min_workers {low} is more than max_workers {high}", line)
    if isinstance(limit, int) and least > limit:
        yield fix(
            SUBJECT,
            f"max_workers: {limit} is less than the {least} that min_workers of all types ask for",
            document.line("max_workers"),
        )


def _refused_by_ray(tree: dict[str, Any]) -> str | None:
    """Why Ray's `prepare_config` or `validate_config` refuses it; None where they do not."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    said = io.StringIO()
    quiet = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            validate_config(prepare_config(tree))
    # Ray raises nearly everything here, and ends the process for machines of one's own.
    except (Exception, SystemExit) as error:
        reason = getattr(error, "message", None) or str(error) or said.getvalue()
        return " ".join(str(reason).split())[:300] or type(error).__name__
    finally:
        logging.disable(quiet)
    return None
