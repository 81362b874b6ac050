"""Cloud providers that do not always deliver; Ray's autoscaler process imports them."""

from __future__ import annotations

from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE

SAYS = "InsufficientInstanceCapacity: no capacity for x9.huge in zone-a"


class ScarceProvider(FakeMultiNodeProvider):  # type: ignore[misc]
    """Delivers nodes on this machine, of a type only as many at a time as `deliver` says."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        self._deliver: dict[str, int] = provider_config["deliver"]

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        up = sum(node["tags"][TAG_RAY_USER_NODE_TYPE] == kind for node in self._nodes.values())
        left = self._deliver[kind] - up if kind in self._deliver else count
        if left > 0:
            super().create_node_with_resources_and_labels(
                node_config, tags, min(left, count), resources, labels
            )
        if left < count:
            raise RuntimeError(SAYS)
