"""Which weights are these? An identity that costs little however large they are."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from raykd.models.load import WEIGHTS, ModelSource, load_config

SAMPLES: Final = 64
SAMPLE_BYTES: Final = 64 * 1024


def identity_of(source: ModelSource) -> str:
    """SHA-256, in hexadecimal, over a model's configuration and samples of its weights.

    Of each weight file its name, its size and `SAMPLES` blocks of `SAMPLE_BYTES`, evenly spaced
    with the first and the last among them, are looked at: all of it where it is small. The time of
    a file is not, so that copies are the same model. A hub name stands for itself at its commit.

    Args:
        source: A directory or a hub name.

    Raises:
        ModelError: Its configuration cannot be read.
    """
    digest = hashlib.sha256()
    if not source.is_directory:
        config = load_config(source, "model")
        commit = getattr(config, "_commit_hash", None) or source.revision
        digest.update(f"{source.path}@{commit}".encode())
        digest.update(config.to_json_string().encode())
        return digest.hexdigest()
    directory = Path(source.path)
    digest.update((directory / "config.json").read_bytes())
    for file in sorted({f for pattern in WEIGHTS for f in directory.glob(pattern)}):
        _update(digest, file)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, file: Path) -> None:
    size = file.stat().st_size
    digest.update(f"{file.name}:{size};".encode())
    last = max(0, size - SAMPLE_BYTES)
    with file.open("rb") as opened:
        for place in sorted({last * i // (SAMPLES - 1) for i in range(SAMPLES)}):
            opened.seek(place)
            digest.update(opened.read(SAMPLE_BYTES))
