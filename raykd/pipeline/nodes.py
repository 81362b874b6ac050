"""The cluster's nodes: which are up, and a function run on one of them or on each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raykd.errors import ResourceError

HEAD = "node:__internal_head__"
"""A resource that only the head has."""
NODE_ANSWER_S = 180
"""A node that has just come up, or is busy, starts its first process in a minute or more."""


def alive() -> list[dict[str, Any]]:
    """Those that are up."""
    return [node for node in ray.nodes() if node["Alive"]]


def object_stores() -> list[float]:
    """Bytes of each node's object store."""
    found = [node["Resources"].get("object_store_memory") for node in alive()]
    return [float(size) for size in found if size]


def on_the_head(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run a function on the head; None where none is seen or it does not answer."""
    heads = [node["NodeID"] for node in alive() if HEAD in node["Resources"]]
    if not heads:
        return None
    answer = ask_node(heads[0], function, *arguments).answer
    return None if isinstance(answer, Exception) else answer


def on_every_node(function: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
    """Run a function once on each node; node name to result, or to the exception it raised.

    A node that does not answer within `NODE_ANSWER_S` counts as one that raised.
    """
    names = {node["NodeID"]: name_of(node) for node in alive()}
    asked = ask_every_node(function, *arguments)
    return {names.get(each.node, each.node): each.answer for each in asked}


@dataclass(frozen=True)
class Asked:
    """A node's answer.

    Attributes:
        node: Its id.
        answer: What the function returned there, or the exception in its place.
        sent: When it was asked, Unix seconds by the driver's clock.
        received: When the answer was there.
    """

    node: str
    answer: Any
    sent: float
    received: float


def name_of(node: dict[str, Any]) -> str:
    """A node for messages: its address and the begin of its id."""
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:8]}"


def ask_every_node(function: Callable[..., Any], *arguments: Any) -> list[Asked]:
    """Run a function once on each node, all at the same time; see `on_every_node`."""
    asked = {_start_on(node["NodeID"], function, *arguments): node["NodeID"] for node in alive()}
    sent, answers, left = time.time(), [], list(asked)
    deadline = sent + NODE_ANSWER_S
    while left:
        done, left = ray.wait(left, timeout=max(0.0, deadline - time.time()))
        received = time.time()
        answers += [Asked(asked[one], _answer(one), sent, received) for one in done or left]
        left = left if done else []
    return answers


def ask_node(node: str, function: Callable[..., Any], *arguments: Any) -> Asked:
    """Run a function once on a node and wait."""
    sent = time.time()
    reference = _start_on(node, function, *arguments)
    ray.wait([reference], timeout=NODE_ANSWER_S)
    received = time.time()
    return Asked(node, _answer(reference), sent, received)


def _start_on(node: str, function: Callable[..., Any], *arguments: Any) -> Any:
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(function).options(num_cpus=0, max_retries=0, scheduling_strategy=here)
    return task.remote(*arguments)


def _answer(reference: Any) -> Any:
    """What a task said, if it has said it by now."""
    try:
        return ray.get(reference, timeout=0)
    except ray.exceptions.GetTimeoutError:
        return ResourceError(f"no answer within {NODE_ANSWER_S} s")
    except ray.exceptions.RayError as error:
        return error
