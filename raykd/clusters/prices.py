"""What machines cost an hour: examples that come with raykd, and a person's own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from raykd.clusters.documents import Document, KeyPath, read_documents
from raykd.clusters.hardware import NodeType
from raykd.errors import JobError

EXAMPLES = Path(__file__).with_name("prices.yaml")

Price = tuple[float | None, float | None]
"""US dollars an hour: on demand, spot; None where unknown."""
KEYS = ("on_demand", "spot")


def read_prices(path: Path = EXAMPLES) -> dict[str, Price]:
    """Read a file of prices: `NAME: {on_demand: 1.0, spot: 0.4}`, a machine or a node type each.

    Raises:
        JobError: It cannot be read, or a price is none.
    """
    document = read_documents(path)[0]
    return parse_prices(document, (), path)


def parse_prices(document: Document, at: KeyPath, path: Path) -> dict[str, Price]:
    """Prices at a place of a document.

    Raises:
        JobError: A price is none; names its line.
    """
    rows: Any = document.tree
    for key in at:
        rows = rows[key]
    if not isinstance(rows, Mapping):
        raise JobError(
            f"{path}:{document.line(*at)}: prices are NAME: {{on_demand: ..., spot: ...}}; found "
            f"{type(rows).__name__}"
        )
    return {str(name): _price(document, (*at, name), row, path) for name, row in rows.items()}


def _price(document: Document, at: KeyPath, row: Any, path: Path) -> Price:
    place = f"{path}:{document.line(*at)}"
    if not isinstance(row, Mapping) or not row.keys() <= set(KEYS) or not row:
        raise JobError(
            f"{place}: {at[-1]}: write {{on_demand: ..., spot: ...}}, US dollars an hour"
        )
    for key, value in row.items():
        good = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (good and 0 <= value < math.inf):
            raise JobError(
                f"{path}:{document.line(*at, key)}: {at[-1]}.{key}: {value!r} is no price; give "
                "US dollars an hour, or null where it is not known"
            )
    return row.get("on_demand"), row.get("spot")


def prices_of(
    node_types: Iterable[NodeType], *tables: Mapping[str, Price]
) -> dict[str, tuple[float | None, float | None]]:
    """The price of each node type that has one; the first table that knows it decides.

    Args:
        node_types: The types.
        tables: Prices by node type or machine; a node type's own name comes first.
    """
    found: dict[str, Price] = {}
    for node_type in node_types:
        for table in tables:
            lower = {name.lower(): price for name, price in table.items()}
            price = table.get(node_type.name) or lower.get((node_type.instance or "").lower())
            if price is not None:
                found[node_type.name] = price
                break
    return found
