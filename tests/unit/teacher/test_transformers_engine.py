"""The engine's soft targets against a dense computation of one document at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from shard_processes import run_two
from tensor_parallel_shard import STATES
from transformers import AutoModelForCausalLM

from raykd import schema
from raykd.errors import ModelError, SoftTargetError
from raykd.models.head import read_head
from raykd.models.load import ModelSource
from raykd.planning.families import shape_of
from raykd.soft_targets.codec import decode, target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine, micro_batches

ALONE = ShardPlace(0, 1, "127.0.0.1", 0)
VOCAB = 320
SPEC = CodecSpec("top_k", VOCAB, (1.0, 2.0), top_k=5, values="fp32")
NAMES = ["target_ids", "target_logprobs", "target_log_tail", "label_logprobs"]
DOCUMENTS = [[5, 7], [3], [12, 2, 9], [1, 1, 1], [20]]

PackedRows = Callable[..., pa.Table]


def engine_of(
    directory: Path, micro_batch_tokens: int = 1000, head_chunk_tokens: int = 1000
) -> TransformersEngine:
    spec = EngineSpec(
        ModelSource(str(directory)), "fp32", False, 1, micro_batch_tokens, head_chunk_tokens
    )
    return TransformersEngine(spec, ALONE)


@pytest.fixture(scope="module")
def engine(teacher_dir: Path) -> TransformersEngine:
    return engine_of(teacher_dir)


@pytest.fixture(scope="module")
def teacher(teacher_dir: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32).eval()


@torch.no_grad()
def dense(teacher: Any, rows: pa.Table, spec: CodecSpec) -> dict[str, list[list[float]]]:
    """Soft targets in float64 from the model's own logits, each document alone."""
    columns: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for row in rows.to_pylist():
        ids = row["input_ids"]
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        out: dict[str, list[float]] = {name: [] for name in columns}
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            logits = teacher(input_ids=torch.tensor([ids[start:end]])).logits[0].double()
            for i in range(start, end):
                if not row["loss_mask"][i]:
                    continue
                logprobs = torch.log_softmax(logits[i - start, : spec.vocab_size], dim=-1)
                order = logprobs.argsort(descending=True)
                kept, left = order[: spec.top_k], order[spec.top_k :]
                out["target_ids"] += kept.tolist()
                out["target_logprobs"] += logprobs[kept].tolist()
                out["target_log_tail"] += [
                    torch.logsumexp(logprobs[left] / t, 0).item() for t in spec.temperatures
                ]
                out["label_logprobs"].append(logprobs[ids[i + 1]].item())
        for name, values in out.items():
            columns[name].append(values)
    return columns


def assert_same(
    scored: pa.Table, expected: dict[str, list[list[float]]], atol: float = 2e-5
) -> None:
    assert scored.column("target_ids").to_pylist() == expected["target_ids"]
    for name in ("target_logprobs", "target_log_tail", "label_logprobs"):
        for row, (ours, theirs) in enumerate(
            zip(scored.column(name).to_pylist(), expected[name], strict=True)
        ):
            np.testing.assert_allclose(ours, theirs, atol=atol, err_msg=f"{name}, row {row}")


def test_soft_targets_are_those_of_a_dense_computation(
    engine: TransformersEngine, teacher: Any, packed_rows: PackedRows
) -> None:
    rows = packed_rows(DOCUMENTS)
    scored = engine.score(rows, SPEC)
    assert scored is not None
    assert scored.schema.equals(pa.schema([*target_schema(SPEC), schema.TEACHER_S]))
    expected = dense(teacher, rows, SPEC)
    assert sum(map(len, expected["label_logprobs"])) > 20
    assert expected["label_logprobs"][3] == []
    assert_same(scored, expected)


def test_padded_rows_of_the_head_take_no_mass(
    engine: TransformersEngine, teacher: Any, packed_rows: PackedRows
) -> None:
    """Labels here lie below 320, so the vocabulary of both sides may end at 310 only for them."""
    rows = packed_rows([[9], [6]], seed=4)
    ids = [[i % 300 for i in row] for row in rows.column("input_ids").to_pylist()]
    rows = rows.set_column(0, schema.PREPARED.field(0), pa.array(ids, pa.list_(pa.int32())))
    narrow = CodecSpec("top_k", 305, top_k=5, values="fp32")
    scored = engine.score(rows, narrow)
    assert scored is not None
    assert_same(scored, dense(teacher, rows, narrow))
    kept = np.exp(np.concatenate(scored.column("target_logprobs").to_numpy())).reshape(-1, 5)
    tail = np.exp(np.concatenate(scored.column("target_log_tail").to_numpy()))
    np.testing.assert_allclose(kept.sum(axis=1) + tail, 1.0, atol=1e-5)


@pytest.mark.parametrize(("micro", "chunk"), [(1, 1000), (24, 7), (1000, 1), (40, 1000)])
def test_neither_micro_batches_nor_head_chunks_change_anything(
    micro: int, chunk: int, teacher_dir: Path, engine: TransformersEngine, packed_rows: PackedRows
) -> None:
    rows = packed_rows(DOCUMENTS, seed=1)
    whole = engine.score(rows, SPEC)
    pieces = engine_of(teacher_dir, micro, chunk).score(rows, SPEC)
    assert whole is not None
    assert pieces is not None
    assert_same(pieces, {name: whole.column(name).to_pylist() for name in NAMES})


def test_no_more_logits_exist_than_a_chunk(
    teacher_dir: Path, packed_rows: PackedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.teacher import transformers_tp

    engine = engine_of(teacher_dir, micro_batch_tokens=30, head_chunk_tokens=4)
    positions = []
    plain = transformers_tp.head_logits

    def counted(model: Any, hidden: torch.Tensor, vocab_size: int) -> torch.Tensor:
        positions.append(len(hidden))
        return plain(model, hidden, vocab_size)

    monkeypatch.setattr(transformers_tp, "head_logits", counted)
    rows = packed_rows(DOCUMENTS)
    engine.score(rows, SPEC)
    assert max(positions) == 4
    learned = sum(map(sum, rows.column("loss_mask").to_pylist()))
    assert sum(positions) == learned


def test_rows_come_back_in_the_order_they_came(teacher_dir: Path, packed_rows: PackedRows) -> None:
    """Short rows first, so that work by length reverses them."""
    rows = packed_rows([[3], [5], [9], [14], [20]], learned=1.0)
    scored = engine_of(teacher_dir, micro_batch_tokens=20).score(rows, SPEC)
    assert scored is not None
    assert [len(v) for v in scored.column("label_logprobs").to_pylist()] == [2, 4, 8, 13, 19]
    alone = [engine_of(teacher_dir).score(rows.slice(i, 1), SPEC) for i in range(5)]
    together = {
        name: [one.column(name).to_pylist()[0] for one in alone if one is not None]
        for name in NAMES
    }
    assert_same(scored, together)


def test_rows_with_nothing_to_learn(engine: TransformersEngine, packed_rows: PackedRows) -> None:
    scored = engine.score(packed_rows([[4], [6]], learned=0.0), SPEC)
    assert scored is not None
    assert scored.num_rows == 2
    assert scored.column("target_ids").to_pylist() == [[], []]


def test_time_is_shared_out_by_length(engine: TransformersEngine, packed_rows: PackedRows) -> None:
    start = time.perf_counter()
    scored = engine.score(packed_rows([[10], [30]]), SPEC)
    passed = time.perf_counter() - start
    assert scored is not None
    first, second = scored.column("teacher_s").to_pylist()
    assert second == pytest.approx(3 * first, rel=1e-3)
    assert 0 < first + second <= passed


def test_the_model_is_described(engine: TransformersEngine, teacher: Any) -> None:
    count = sum(p.numel() for p in teacher.parameters())
    assert engine.describe() == {"parameters": count, "bytes": 4 * count, "device": "cpu"}


def test_a_token_whose_logits_are_no_numbers_is_named(
    tmp_path: Path, save_llama: Callable[..., Path], packed_rows: PackedRows
) -> None:
    directory = save_llama(tmp_path / "m", 1)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        model.model.embed_tokens.weight[77] = float("nan")
    model.save_pretrained(directory)
    rows = packed_rows([[6], [6]], learned=1.0)
    ids = rows.column("input_ids").to_pylist()
    assert 77 not in ids[0] + ids[1]
    ids[1][3] = 77
    rows = rows.set_column(0, schema.PREPARED.field(0), pa.array(ids, pa.list_(pa.int32())))
    with pytest.raises(SoftTargetError) as caught:
        engine_of(directory, head_chunk_tokens=2).score(rows, SPEC)
    # 0 x NaN is NaN, so attention carries it to all of the row; the row before is well
    assert str(caught.value).startswith("row 1 of the request, token 0: the teacher's logits")
    assert str(caught.value).endswith(f"its text ends with token ids {ids[1][:1]}")


def test_the_place_of_a_bad_token_is_found_through_chunks_and_padding(
    teacher_dir: Path, packed_rows: PackedRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raykd.teacher import transformers_tp

    chunks = iter(range(100))
    plain = transformers_tp.head_logits

    def spoilt(model: Any, hidden: torch.Tensor, vocab_size: int) -> torch.Tensor:
        logits = plain(model, hidden, vocab_size)
        if next(chunks) == 3:
            logits[1] = float("nan")
        return logits

    monkeypatch.setattr(transformers_tp, "head_logits", spoilt)
    rows = packed_rows([[4], [11]], learned=1.0)
    ids = rows.column("input_ids").to_pylist()
    with pytest.raises(SoftTargetError) as caught:
        engine_of(teacher_dir, head_chunk_tokens=3).score(rows, SPEC)
    # places 0 to 9 are the longer row's, 10 to 12 the shorter's: chunk 3 holds 9, 10 and 11
    assert str(caught.value).endswith(f"its text ends with token ids {ids[0][:1]}")


@pytest.mark.parametrize(("micro", "chunk"), [(1000, 1000), (24, 7)])
def test_hidden_states_are_those_that_the_head_takes(
    micro: int, chunk: int, teacher_dir: Path, teacher: Any, packed_rows: PackedRows
) -> None:
    rows = packed_rows(DOCUMENTS)
    spec = CodecSpec("hidden", VOCAB, hidden_size=32, hidden_values="fp32")
    scored = engine_of(teacher_dir, micro, chunk).score(rows, spec)
    assert scored is not None
    hidden_MD = decode(scored, spec).tensors[0]
    exact = CodecSpec("top_k", VOCAB, (1.0, 2.0), top_k=5, values="fp32")
    logprobs = torch.log_softmax(teacher.lm_head(hidden_MD), -1)
    expected = dense(teacher, rows, exact)
    kept = logprobs.topk(5).values.flatten().tolist()
    assert kept == pytest.approx(np.concatenate(expected["target_logprobs"]).tolist(), abs=2e-5)


def test_samples_depend_on_the_row_and_the_seed_alone(
    teacher_dir: Path, packed_rows: PackedRows
) -> None:
    """Whatever rows it came with, and however the work was cut."""
    rows = packed_rows(DOCUMENTS, seed=1)
    spec = CodecSpec("sampled", VOCAB, draws=20, seed=7)
    together = engine_of(teacher_dir).score(rows, spec)
    alone = [engine_of(teacher_dir, 24, 7).score(rows.slice(i, 1), spec) for i in range(5)]
    again = engine_of(teacher_dir).score(rows, replace(spec, seed=8))
    assert together is not None
    assert again is not None
    ids = together.column("target_id_gaps").to_pylist()
    assert ids == [one.column("target_id_gaps").to_pylist()[0] for one in alone if one is not None]
    assert ids != again.column("target_id_gaps").to_pylist()


def test_a_model_with_broken_weights_is_refused_at_once(
    tmp_path: Path, save_llama: Callable[..., Path]
) -> None:
    directory = save_llama(tmp_path / "m", 1)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight[0] = float("nan")
    model.save_pretrained(directory)
    with pytest.raises(ModelError, match=r"^teacher: "):
        engine_of(directory)


@pytest.mark.parametrize(
    ("lengths", "most", "groups"),
    [
        ([4, 4, 4, 4], 8, [[0, 1], [2, 3]]),
        ([1, 9, 3, 3], 9, [[1], [2, 3, 0]]),
        ([50, 2, 2], 10, [[0], [1, 2]]),
        ([5], 1, [[0]]),
        ([0, 0], 4, [[0, 1]]),
        ([], 4, []),
    ],
)
def test_micro_batches(lengths: list[int], most: int, groups: list[list[int]]) -> None:
    found = micro_batches(np.array(lengths, dtype=np.int64), most)
    assert [group.tolist() for group in found] == groups


def test_micro_batches_hold_every_row_once_within_bounds() -> None:
    lengths = np.random.default_rng(0).integers(1, 70, size=200)
    groups = micro_batches(lengths, 64)
    assert sorted(np.concatenate(groups).tolist()) == list(range(200))
    for group in groups:
        assert len(group) == 1 or len(group) * lengths[group].max() <= 64


def assert_nearly(ours: list[list[int]], theirs: list[list[int]], name: str) -> None:
    """Of bf16 numbers, given as the integers of their bits."""
    a, b = (
        torch.from_numpy(np.concatenate(x).astype(np.uint16)).view(torch.bfloat16).float()
        for x in (ours, theirs)
    )
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    torch.testing.assert_close(a, b, rtol=2**-7, atol=1e-4, msg=lambda m: f"{name}: {m}")


def test_two_shards_give_the_logits_of_one(
    teacher_dir: Path, tmp_path: Path, teacher: Any, packed_rows: PackedRows
) -> None:
    rows = packed_rows([[5, 7], [12], [3, 4]])
    with pa.OSFile(str(tmp_path / "rows"), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as out:
        out.write_table(rows)
    files = (tmp_path / "rows", tmp_path / "out.pt")
    run_two("tensor_parallel_shard.py", teacher_dir, *files)
    got = torch.load(tmp_path / "out.pt", weights_only=True)
    alone = engine_of(teacher_dir)
    from raykd.models.batch import collate
    from raykd.models.head import head_logits, hidden_states

    batch = collate(rows)
    with torch.inference_mode():
        hidden = hidden_states(alone._model, batch.input_ids_BT, batch.position_ids_BT)
        expected = head_logits(alone._model, hidden.flatten(0, 1))
    assert (got["logits"] - expected).abs().max() <= 1e-5
    table = pa.table({name: got["columns"][name] for name in NAMES})
    assert_same(table, dense(teacher, rows, SPEC))
    assert got["described"] == alone.describe()
    head = read_head(tmp_path / "head.safetensors", VOCAB, torch.device("cpu"))
    assert torch.equal(head.weight_VD, teacher.lm_head.weight)
    whole = alone.represent(rows, STATES, None)
    assert whole is not None
    assert list(got["inner"]) == whole.column_names
    for name, values in got["inner"].items():
        if name.startswith("state_") and name != "state_stamp":
            assert_nearly(values, whole.column(name).to_pylist(), name)
    # a shard holds about half: what is not split is small
    assert got["local"] < 0.65 * got["described"]["parameters"]
    config = json.loads((teacher_dir / "config.json").read_text())
    assert got["local"] == shape_of(config, "teacher").shard_parameters(2)
