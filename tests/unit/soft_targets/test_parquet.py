"""At rest: what is written with the options of a codec reads as it was."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from soft_target_cases import some_encoded, some_table, table_of

from raykd.soft_targets.codec import CodecSpec, decode, encode, target_schema
from raykd.soft_targets.parquet import parquet_options
from tests.codec_specs import SPECS


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_file_holds_the_same_columns(spec: CodecSpec, tmp_path: Path) -> None:
    table = some_table(spec).select(target_schema(spec).names)
    pq.write_table(table, tmp_path / "targets.parquet", **parquet_options(spec))
    read = pq.read_table(tmp_path / "targets.parquet")
    assert read.schema.equals(target_schema(spec))
    assert read.equals(table)
    for found, sent in zip(decode(read, spec).tensors, decode(table, spec).tensors, strict=True):
        assert torch.equal(found, sent)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_column_has_its_encoding(spec: CodecSpec, tmp_path: Path) -> None:
    options = parquet_options(spec)
    pq.write_table(table_of(some_encoded(spec), spec), tmp_path / "t.parquet", **options)
    group = pq.ParquetFile(tmp_path / "t.parquet").metadata.row_group(0)
    for at in range(group.num_columns):
        column = group.column(at)
        assert column.compression == "ZSTD"
        expected = options["column_encoding"].get(column.path_in_schema, "RLE_DICTIONARY")
        assert expected in column.encodings


def test_the_encodings_pay(tmp_path: Path) -> None:
    """Against pyarrow's own choice with zstd, on ids as spread as a language model's."""
    spec = CodecSpec("top_k", 50_000, top_k=128)
    generator = torch.Generator().manual_seed(0)
    logits_TV = 3 * torch.randn(300, 50_000, generator=generator)
    table = table_of(encode(logits_TV, torch.zeros(300).long(), None, spec), spec)
    pq.write_table(table, tmp_path / "ours.parquet", **parquet_options(spec))
    pq.write_table(table, tmp_path / "default.parquet", compression="zstd")
    ours, default = ((tmp_path / f"{n}.parquet").stat().st_size for n in ("ours", "default"))
    assert ours < 0.96 * default
    assert ours / 300 < 330
