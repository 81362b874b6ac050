"""What drift is measured on: every text once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raykd.data.pack import PackedRow
from raykd.data.rows import RowWriter
from raykd.pipeline.drifting import _read


def test_of_several_maskings_one_is_read(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path, 0)
    for text in range(5):
        for masked in (1, 2, 3):
            ids = np.full(6, 10 + text, np.int32)
            mask = (np.arange(6) == masked).astype(np.uint8)
            writer.add(PackedRow(ids, np.arange(6, dtype=np.int32), mask, 6))
    writer.close()
    once, share = _read(tmp_path, 10**6, False, copies=3)
    assert [ids[0] for ids in once.ids] == [10, 11, 12, 13, 14]
    assert (once.num_pieces, share) == (5, 1.0)
    every, _ = _read(tmp_path, 10**6, False)
    assert every.num_pieces == 15
    # Half of the tokens are half of the texts.
    few, share = _read(tmp_path, 18, False, copies=3)
    assert few.num_pieces == 3
    assert share == 3 / 5
