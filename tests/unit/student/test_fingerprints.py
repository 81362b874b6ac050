from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raykd.errors import StorageError
from raykd.student import fingerprints
from raykd.student.fingerprints import fingerprint

VALUES = torch.randn(1000, generator=torch.Generator().manual_seed(1))


def modulo(value: int) -> int:
    return value % 2**64


@pytest.mark.parametrize("cuts", [[500], [1, 999], [3, 4, 5, 700]])
def test_pieces_add_up_to_the_whole(cuts: list[int]) -> None:
    starts = [0, *cuts]
    pieces = [VALUES[a:b] for a, b in zip(starts, [*cuts, 1000], strict=True)]
    total = sum(fingerprint(p, start) for p, start in zip(pieces, starts, strict=True))
    assert modulo(total) == modulo(fingerprint(VALUES))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = fingerprint(VALUES)
    monkeypatch.setattr(fingerprints, "CHUNK", 7)
    assert fingerprint(VALUES) == expected


def test_every_bit_of_every_value_counts() -> None:
    expected = fingerprint(VALUES)
    for place in (0, 17, 999):
        for bit in (0, 12, 23, 30):
            bits = VALUES.view(torch.int32).clone()
            bits[place] ^= 1 << bit
            assert fingerprint(bits.view(torch.float32)) != expected


def test_places_count() -> None:
    expected = fingerprint(VALUES)
    assert fingerprint(VALUES, 1) != expected
    assert fingerprint(VALUES.flip(0)) != expected
    swapped = VALUES.clone()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert fingerprint(swapped) != expected


def test_it_fits_into_64_bits_and_padding_counts_for_nothing() -> None:
    assert fingerprint(torch.zeros(50), 7) == 0
    assert fingerprint(torch.zeros(0)) == 0
    assert -(2**63) <= fingerprint(VALUES) < 2**63
    padded = torch.cat([VALUES, torch.zeros(24)])
    assert fingerprint(padded) == fingerprint(VALUES)


def test_bf16_is_read_as_what_it_is() -> None:
    assert fingerprint(VALUES.bfloat16()) == fingerprint(VALUES.bfloat16().float())


def test_another_parameter_is_named(tmp_path: Path) -> None:
    sums = {"a.weight/fp32": 1, "a.weight/exp_avg": 2, "b.weight/fp32": 3}
    assert not fingerprints.require_same(tmp_path, sums)
    fingerprints.save(tmp_path, sums)
    assert fingerprints.require_same(tmp_path, sums)
    for other, said in (
        ({**sums, "a.weight/exp_avg": 4}, r"a\.weight \(exp_avg\) is not what was saved"),
        ({**sums, "c/fp32": 4}, r"c \(fp32\) is not"),
        ({k: sums[k] for k in list(sums)[:2]}, r"b\.weight \(fp32\) is not"),
    ):
        with pytest.raises(StorageError, match=said):
            fingerprints.require_same(tmp_path, other)
