"""A cluster, and runs on it, as the integration tests have them."""

from __future__ import annotations

from ..integration.conftest import distil, ray_cluster

__all__ = ["distil", "ray_cluster"]
