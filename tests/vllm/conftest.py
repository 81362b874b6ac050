"""A cluster, and runs on it, as the integration tests have them."""

from __future__ import annotations

from ..integration.conftest import _ray_ends, distil, ray_cluster, ray_environment

__all__ = ["_ray_ends", "distil", "ray_cluster", "ray_environment"]
