"""Whatever kind of value stands where another is meant, the check answers; it never breaks."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster_cases import AWS, KUBERAY, ON_PREM, written
from test_skypilot_rules import TASK

from raykd.clusters.check import check_cluster
from raykd.clusters.read import read_hardware
from raykd.errors import RaykdError

FILES = {"aws": AWS, "on-prem": ON_PREM, "kuberay": KUBERAY, "skypilot": TASK}
VALUES: list[Any] = [None, 1, "x", [], [None], {"a": None}, True, -1.5]
TRIES = 10
"""Places of a file that are spoilt; drawn with a fixed seed."""


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    keys = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield from places(tree[key], (*at, key))


@pytest.mark.parametrize("name", FILES)
def test_any_value_in_any_place(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray's own code is called only where the schema agrees; what it makes of a value is its matter.
    monkeypatch.setattr("raykd.clusters.launcher_schema._refused_by_ray", lambda tree: None)
    monkeypatch.setattr("raykd.clusters.aws_node_config.find_spec", lambda package: None)
    documents = list(yaml.safe_load_all(FILES[name]))
    every = [(i, at) for i, tree in enumerate(documents) for at in places(tree)]
    draw = random.Random(4)
    for i, at in draw.sample(every, TRIES if len(every) > TRIES else len(every)):
        spoilt = copy.deepcopy(documents)
        around = spoilt[i]
        for key in at[:-1]:
            around = around[key]
        around[at[-1]] = draw.choice(VALUES)
        path = written(tmp_path, yaml.safe_dump_all(spoilt))
        for look in (check_cluster, read_hardware):
            with contextlib.suppress(RaykdError):
                look(path)
