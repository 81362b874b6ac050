"""How soft targets lie in Parquet: for each column the standard encoding that came out smallest.

Measured on real teacher outputs (benchmarks/codecs.py, "encodings", has the bytes of each):

- gaps between ids: BYTE_STREAM_SPLIT, so that zstd meets the high bytes, nearly all 0 or 1, by
  themselves. DELTA_BINARY_PACKED takes 1.6 times that: the jump back at each token's first id
  widens its whole block, and zstd can do nothing with packed bits;
- codes and counts: BYTE_STREAM_SPLIT too. Parquet knows no integers below four bytes; split, three
  of them are zeros that zstd swallows. A dictionary is as small, and slower;
- floats, scales and hidden states: BYTE_STREAM_SPLIT, exponents apart from mantissas.

zstd beyond level 3 saves one or two per cent for several times the work.
"""

from __future__ import annotations

from typing import Any, Final

import pyarrow as pa

from raykd.soft_targets.codec import target_schema
from raykd.soft_targets.columns import STAMP
from raykd.soft_targets.spec import CodecSpec

ZSTD_LEVEL: Final = 3


def parquet_options(spec: CodecSpec) -> dict[str, Any]:
    """Arguments of `pyarrow.parquet.write_table` for a table of `target_schema(spec)`.

    A table with more columns needs their encodings beside these.
    """
    lists = [field.name for field in target_schema(spec) if pa.types.is_list(field.type)]
    return {
        "compression": "zstd",
        "compression_level": ZSTD_LEVEL,
        "use_dictionary": [STAMP],
        "column_encoding": {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in lists},
        "write_statistics": False,
    }
