"""Which packages a job's filters need and are not installed."""

from __future__ import annotations

from importlib.util import find_spec

from raykd.config.generation import GenerationConfig


def missing(config: GenerationConfig) -> str | None:
    """What to say of filters that cannot run here; None where all can."""
    lacking = []
    for one in config.filters:
        near = one.duplicates is not None and one.duplicates.near is not None
        needs = {"math_verify": "math_verify", "language": "lingua"}.get(one.name)
        package = "datasketch" if near else needs
        if package is not None and find_spec(package) is None:
            lacking.append(f"{one.name} needs {package.replace('_', '-')}")
    if not lacking:
        return None
    return f"generation.filters: {', '.join(lacking)}; pip install 'raykd[filters]'"
