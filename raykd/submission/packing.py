"""What travels with a job: the files of a working directory that it may need, and no more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pathspec import GitIgnoreSpec

from raykd.errors import SubmissionError
from raykd.submission.secret_text import held_by

LARGEST_FILE_BYTES: Final = 20 * 10**6
LARGEST_PACKAGE_BYTES: Final = 100 * 10**6
"""Ray's job API takes 100 MiB."""
MOST_FILES: Final = 10_000
OUTSIDE: Final = "submitted"
"""Directory of the package for a job file that lies outside the working directory."""
IGNORE_FILES: Final = (".gitignore", ".rayignore")
"""What Ray's own packing reads, so that both ways of submitting leave out the same."""
NEVER: Final = (
    ".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache",
    ".pytest_cache", ".ipynb_checkpoints", ".cache", "node_modules", "runs",
)  # fmt: skip
WEIGHTS: Final = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.onnx", "*.h5",
)  # fmt: skip
KEYS: Final = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_ed25519*",
    "id_ecdsa*", ".ssh", ".aws", ".azure", ".gcloud", ".kube", ".docker", ".gnupg", ".ray",
    ".netrc", ".pypirc", ".npmrc", ".git-credentials", ".huggingface", "auth_token",
)  # fmt: skip


@dataclass
class Packed:
    """The files of a package, relative to its root, and what was left out by rule."""

    root: Path
    files: list[Path] = field(default_factory=list)
    num_bytes: int = 0
    left_out: dict[str, list[Path]] = field(default_factory=dict)
    """By reason; directories of caches and what ignore files name are not among them."""


def choose(root: Path, secrets: Mapping[str, str]) -> Packed:
    """The files of a working directory that travel.

    Args:
        root: The working directory.
        secrets: Values that may stand in no file, by name.

    Raises:
        SubmissionError: A file or all of them are too large, or one holds a secret.
    """
    if not root.is_dir():
        raise SubmissionError(f"--working-dir: {root}: not a directory")
    packed = Packed(root.resolve())
    for path in _files(packed.root, packed.root, [], packed):
        _take(path, packed, secrets)
    return packed


def _files(
    directory: Path, root: Path, specs: list[tuple[Path, GitIgnoreSpec]], packed: Packed
) -> Iterator[Path]:
    """Files below `directory` that no rule leaves out, in order of their names."""
    specs = specs + _specs_of(directory)
    for entry in sorted(directory.iterdir()):
        relative = entry.relative_to(root)
        if _matches(_RULES["never"], entry, entry.name) or entry.name in IGNORE_FILES:
            continue
        if any(_matches(spec, entry, str(entry.relative_to(at))) for at, spec in specs):
            continue
        reason = _reason(entry, root)
        if reason is not None:
            packed.left_out.setdefault(reason, []).append(relative)
        elif entry.is_dir():
            yield from _files(entry, root, specs, packed)
        elif entry.is_file():
            yield entry


def _specs_of(directory: Path) -> list[tuple[Path, GitIgnoreSpec]]:
    found = [directory / name for name in IGNORE_FILES]
    return [
        (directory, GitIgnoreSpec.from_lines(path.read_text(encoding="utf-8").splitlines()))
        for path in found
        if path.is_file()
    ]


_RULES: Final = {
    name: GitIgnoreSpec.from_lines(patterns)
    for name, patterns in (("never", NEVER), ("weights", WEIGHTS), ("keys", KEYS))
}


def _matches(spec: GitIgnoreSpec, entry: Path, relative: str) -> bool:
    return spec.match_file(relative + "/" if entry.is_dir() else relative)


def _reason(entry: Path, root: Path) -> str | None:
    """Why something is left out that a person might expect to travel."""
    if entry.is_symlink() and (entry.is_dir() or not entry.resolve().is_relative_to(root)):
        return "links that lead elsewhere"
    if _matches(_RULES["keys"], entry, entry.name):
        return "keys"
    if _matches(_RULES["weights"], entry, entry.name):
        return "weights"
    return None


def _take(path: Path, packed: Packed, secrets: Mapping[str, str]) -> None:
    size = path.stat().st_size
    relative = path.relative_to(packed.root)
    if size > LARGEST_FILE_BYTES:
        raise SubmissionError(
            f"{relative}: {size / 1e6:,.1f} MB is too large to travel with a job (at most "
            f"{LARGEST_FILE_BYTES / 1e6:.0f} MB): put it on storage that every node sees and give "
            "its absolute path in the job, or name it in .rayignore if the job does not need it"
        )
    packed.files.append(relative)
    packed.num_bytes += size
    if packed.num_bytes > LARGEST_PACKAGE_BYTES or len(packed.files) > MOST_FILES:
        raise SubmissionError(
            f"{packed.root}: more than {LARGEST_PACKAGE_BYTES / 1e6:.0f} MB or {MOST_FILES:,} "
            "files; give the directory of the project with --working-dir, or name in .rayignore "
            "what the job does not need"
        )
    variable = held_by(path.read_bytes(), secrets)
    if variable is not None:
        raise SubmissionError(
            f"{relative}: holds the value of {variable}, and would be stored on the cluster; "
            "remove it, or name the file in .rayignore"
        )


def place_of_job(job_file: Path, packed: Packed) -> Path:
    """Where the job file lies in the package; in a directory of its own if it is from elsewhere."""
    path = job_file.resolve()
    if path.is_relative_to(packed.root):
        return path.relative_to(packed.root)
    return Path(OUTSIDE) / path.name


def stage(packed: Packed, job_file: Path, directory: Path) -> None:
    """Copy the package into an empty directory, the job file with it whatever the rules say."""
    for relative in packed.files:
        _copy(packed.root / relative, directory / relative)
    _copy(job_file, directory / place_of_job(job_file, packed))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def told(packed: Packed) -> list[str]:
    """Lines for a person: how much travels, and what does not."""
    lines = [f"packed {len(packed.files):,} files, {packed.num_bytes / 1e6:,.1f} MB"]
    for reason, paths in sorted(packed.left_out.items()):
        names = ", ".join(str(path) for path in paths[:3])
        more = f" and {len(paths) - 3:,} more" if len(paths) > 3 else ""
        lines.append(f"left out ({reason}): {names}{more}")
    return lines
