"""A shard's file: pieces as rows of Parquet, in small row groups.

A later epoch reads pieces in another order, and a piece is read with its row group: small groups
keep what is read beside it small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raykd.soft_targets.parquet import parquet_options
from raykd.soft_targets.spec import CodecSpec
from raykd.store.piece_targets import PieceTargets, list_columns
from raykd.store.pieces import KEY_BYTES, Int64s, Keys, keys_from_bytes, keys_to_bytes, one_chunk

KEY: Final = "key"
KEY_TYPE: Final = pa.binary(KEY_BYTES)
GROUP_TOKENS: Final = 2048
"""About as many learned tokens lie in a row group, if they do not take more than `GROUP_BYTES`."""
GROUP_BYTES: Final = 1 << 20


def shard_schema(spec: CodecSpec) -> pa.Schema:
    """The columns of a shard: the key, then the codec's."""
    return pa.schema([pa.field(KEY, KEY_TYPE), *(column.field for column in list_columns(spec))])


def encode_shard(parts: Sequence[PieceTargets], spec: CodecSpec) -> bytes:
    """Lay pieces into the bytes of a shard's file.

    Args:
        parts: At least one, none empty, in the order of the file's rows.
        spec: The codec.
    """
    columns = pa.concat_tables([part.columns for part in parts])
    keys = np.concatenate([part.keys for part in parts])
    table = columns.add_column(0, KEY, key_column(keys)).cast(shard_schema(spec))
    tokens = np.concatenate([part.tokens for part in parts])
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, **_options(spec)) as writer:
        for start, stop in _groups(tokens, table.nbytes):
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _options(spec: CodecSpec) -> dict[str, Any]:
    options = parquet_options(spec)
    options["column_encoding"] = {**options["column_encoding"], KEY: "PLAIN"}
    return {**options, "write_page_checksum": True}


def _groups(tokens: Int64s, num_bytes: int) -> list[tuple[int, int]]:
    """First and end row of each row group: a group ends where a multiple of its size is passed."""
    ends = np.cumsum(tokens)
    token_bytes = num_bytes / int(ends[-1])
    size = max(1, min(GROUP_TOKENS, int(GROUP_BYTES / token_bytes)))
    begins = (ends - tokens) // size
    starts = np.flatnonzero(np.diff(begins, prepend=-1)).tolist()
    return list(zip(starts, [*starts[1:], len(tokens)], strict=True))


def open_shard(source: Any) -> pq.ParquetFile:
    """Open a shard's file; every page's checksum is compared when it is read."""
    return pq.ParquetFile(source, page_checksum_verification=True)


def key_column(keys: Keys) -> pa.Array:
    """Keys [P, 2] as an Arrow column."""
    buffer = pa.py_buffer(keys_to_bytes(keys))
    return pa.FixedSizeBinaryArray.from_buffers(KEY_TYPE, len(keys), [None, buffer])


def keys_of(table: pa.Table) -> Keys:
    """The keys in a table of a shard's columns: [P, 2]."""
    array = one_chunk(table.column(KEY))
    data = array.buffers()[1].to_pybytes() if len(array) else b""
    start = array.offset * KEY_BYTES
    return keys_from_bytes(data[start : start + len(array) * KEY_BYTES])
