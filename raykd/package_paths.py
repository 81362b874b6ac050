"""`package:NAME/inside/path`: files that an installed Python package carries, its code unrun."""

from __future__ import annotations

import glob
import importlib.util
from pathlib import Path, PurePosixPath

from raykd.errors import JobError

PREFIX = "package:"


def is_package_reference(source: str) -> bool:
    """Whether `source` is written `package:...`."""
    return source.startswith(PREFIX)


def resolve_package_path(reference: str, error: type[JobError] = JobError) -> Path:
    """Turn `package:NAME[/inside/path]` into a path on this machine.

    The package is found, never imported.

    Args:
        reference: The text from the job file. The inside path may be a glob; it is not expanded.
        error: What to raise when the reference cannot be resolved.

    Raises:
        JobError: Malformed reference, package not installed, or nothing at the inside path.
    """
    name, _, inside = reference.removeprefix(PREFIX).partition("/")
    if not is_package_reference(reference) or not name.isidentifier():
        raise error(
            f"{reference!r}: write it as package:NAME/inside/path, NAME being the import name of "
            "an installed top-level package"
        )
    if ".." in PurePosixPath(inside).parts or inside.startswith("/"):
        raise error(f"{reference!r}: the inside path must stay inside the package (no '..')")
    found = [Path(location) / inside for location in _locations(name, reference, error)]
    for path in found:
        if path.exists() or _matches(path):
            return path
    raise error(f"{reference!r}: the package has nothing at {inside!r}; looked at {found[0]}")


def _matches(pattern: Path) -> bool:
    names = glob.iglob(str(pattern), recursive=True)  # noqa: PTH207 - the pattern is absolute
    return glob.has_magic(str(pattern)) and next(names, None) is not None


def _locations(name: str, reference: str, error: type[JobError]) -> list[str]:
    try:
        spec = importlib.util.find_spec(name)
    except (ValueError, ImportError):
        spec = None
    if spec is None:
        raise error(
            f"{reference!r}: the Python package {name} is not installed; install the distribution "
            "that provides it (pip install), on every node"
        )
    if not spec.submodule_search_locations:
        raise error(f"{reference!r}: {name} is a single module, not a package with files inside")
    return list(spec.submodule_search_locations)
