"""The cluster and the run of the integration tests."""

from __future__ import annotations

from tests.integration.conftest import _limit, distil, once, ray_cluster

__all__ = ["_limit", "distil", "once", "ray_cluster"]
