"""Material that the tests of this room share: documents, rows of them, a teacher that is a hash.

The teacher encodes each piece by itself, found by a loop over tokens, so that its answer for a row
owes nothing to the code under test.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch

from raykd import schema
from raykd.data.pack import Packer
from raykd.data.tokenize import TokenizedDocument
from raykd.soft_targets.codec import CodecSpec, Encoded, encode, to_columns, token_keys
from raykd.store.section import Section
from raykd.store.store import SoftTargetStore
from tests.codec_specs import V

LENGTH = 32

Piece = tuple[list[int], list[int]]
"""Token ids and loss mask."""


def documents(number: int, seed: int = 0) -> list[TokenizedDocument]:
    """Of 2 to 50 tokens: short and long, learned whole, after a prompt, here and there, never."""
    draw = random.Random(seed)
    found = []
    for index in range(number):
        length = draw.randint(2, 50)
        ids = np.array([draw.randrange(V) for _ in range(length)], np.int32)
        learn = np.array([draw.random() < draw.choice([0.3, 1.0]) for _ in range(length)], np.uint8)
        learn[: draw.choice([0, 1, length // 2, length])] = 0
        found.append(TokenizedDocument(index, f"document {index}", ids, learn))
    return found


def packed(
    found: Iterable[TokenizedDocument], packing: Literal["pack", "pad"] = "pack"
) -> pa.Table:
    """Rows of `schema.PREPARED`."""
    packer = Packer(LENGTH, packing)
    rows = [row for document in found for row in packer.add(document)] + packer.flush()
    columns = {name: [getattr(row, name) for row in rows] for name in schema.PREPARED.names}
    return pa.table(columns, schema=schema.PREPARED)


def shuffled(found: Sequence[TokenizedDocument], seed: int) -> list[TokenizedDocument]:
    return random.Random(seed).sample(list(found), len(found))


def rows_of(layout: Sequence[Sequence[Piece]], padding: int = 0) -> pa.Table:
    """Rows of pieces, with some padding at the end of each."""
    columns: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for row in layout:
        columns["input_ids"].append([i for ids, _ in row for i in ids] + [0] * padding)
        columns["position_ids"].append(
            [i for ids, _ in row for i in range(len(ids))] + [0] * padding
        )
        columns["loss_mask"].append([m for _, mask in row for m in mask] + [0] * padding)
    return pa.table(columns, schema=schema.PREPARED)


def pieces_by_loop(rows: pa.Table) -> list[list[Piece]]:
    """Every row's pieces, those without a token to learn too."""
    found = []
    for row in rows.select(schema.PREPARED.names).to_pylist():
        pieces: list[Piece] = []
        for token, position, flag in zip(*row.values(), strict=True):
            if position == 0 or not pieces:
                pieces.append(([], []))
            pieces[-1][0].append(token)
            pieces[-1][1].append(flag)
        found.append(pieces)
    return found


def encode_piece(piece: Piece, spec: CodecSpec) -> Encoded:
    """What the teacher says of a piece: a function of its ids and mask, and of nothing else."""
    ids, mask = piece
    seed = int.from_bytes(hashlib.sha256(repr(piece).encode()).digest()[:6], "little")
    width = spec.hidden_size if spec.source == "hidden" else spec.vocab_size
    source = torch.randn(sum(mask), width, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([ids[(at + 1) % len(ids)] for at, m in enumerate(mask) if m]).long()
    return encode(source, labels, token_keys([np.array(ids)], [sum(mask)], spec.seed), spec)


def teach(rows: pa.Table, spec: CodecSpec) -> pa.Table:
    """The teacher's answer for rows, piece by piece: the columns of `target_schema`."""
    encoded = [
        Encoded.concatenate([encode_piece(piece, spec) for piece in row] or [_nothing(spec)])
        for row in pieces_by_loop(rows)
    ]
    return pa.table(to_columns(encoded, spec))


def _nothing(spec: CodecSpec) -> Encoded:
    return encode_piece(([0], [0]), spec)


def section_of(spec: CodecSpec) -> Section:
    return Section("a teacher", "a tokenizer", spec)


def open_store(location: Path | str, spec: CodecSpec, write: bool = True) -> SoftTargetStore:
    """One that writes only when told to."""
    return SoftTargetStore.open(
        str(location), section_of(spec), write=write, shard_bytes=1 << 40, shard_seconds=3600
    )


def filled(location: Path | str, spec: CodecSpec, rows: pa.Table, calls: int = 1) -> None:
    """A store that holds rows, one shard a call."""
    store = open_store(location, spec)
    for at in range(calls):
        some = rows.slice(at * rows.num_rows // calls, rows.num_rows // calls + 1)
        store.add(some, teach(some, spec))
        store.flush()
    store.close()


def shard_paths(location: Path) -> list[Path]:
    return sorted(location.glob("*/shards/*.parquet"))


def entry_paths(location: Path) -> list[Path]:
    return sorted(location.glob("*/published/*.json"))
