"""Versions here and on the cluster, compared before anything is sent."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from raykd.errors import SubmissionError


@dataclass(frozen=True)
class Versions:
    """Of Ray and Python; Python's is None where the cluster does not say."""

    ray: str
    python: str | None

    @classmethod
    def here(cls) -> Versions:
        """Of this process."""
        import ray

        return cls(ray.__version__, platform.python_version())


def differences(here: Versions, there: Versions) -> list[str]:
    """What differs in the first two numbers of a version, one line each."""
    pairs = [("Ray", here.ray, there.ray)]
    if here.python is not None and there.python is not None:
        pairs.append(("Python", here.python, there.python))
    return [
        f"{name} {other} on the cluster, {own} here"
        for name, own, other in pairs
        if _minor(own) != _minor(other)
    ]


def require_same(here: Versions, there: Versions, address: str) -> None:
    """Refuse a cluster of other versions.

    Raises:
        SubmissionError: Names each, and what to do.
    """
    found = differences(here, there)
    if found:
        raise SubmissionError(
            f"{address}: {'; '.join(found)}. Submit from an environment with the cluster's "
            "versions, or give --other-versions if the job is known to work with those of the "
            "cluster"
        )


def _minor(version: str) -> tuple[str, ...]:
    return tuple(version.split(".")[:2])
