"""The engine's inner states against the model's own, each document alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM

from raykd import schema
from raykd.errors import SoftTargetError
from raykd.models.load import ModelSource
from raykd.soft_targets.codec import decode, target_schema
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import from_wire, whole_documents, wire_schema
from raykd.teacher.engine import EngineSpec, ShardPlace
from raykd.teacher.transformers_tp import TransformersEngine

VOCAB = 320
STATES = CodecSpec(
    "states",
    VOCAB,
    hidden_size=32,
    state_layers=(0, 2),
    attention_layer=2,
    attention_widths=(("query", 32), ("value", 16)),
    fingerprint="teacher",
)
TOP_K = CodecSpec("top_k", VOCAB, top_k=5, values="fp32")
DOCUMENTS = [[5, 7], [3], [12, 2, 9], [1, 1, 1], [20]]


def engine_of(directory: Path, micro: int = 1000) -> TransformersEngine:
    spec = EngineSpec(ModelSource(str(directory)), "fp32", False, 1, micro, 8)
    return TransformersEngine(spec, ShardPlace(0, 1, "127.0.0.1", 0))


@torch.no_grad()
def own_states(model: Any, rows: pa.Table) -> dict[str, torch.Tensor]:
    """All tokens of all documents with a token to learn, as float32."""
    parts: dict[str, list[torch.Tensor]] = {"0": [], "2": [], "query": [], "value": []}
    for row in rows.to_pylist():
        ids, mask = row["input_ids"], row["loss_mask"]
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start, end in zip(starts, [*starts[1:], len(ids)], strict=True):
            if not any(mask[start:end]):
                continue
            tokens = torch.tensor([ids[start:end]])
            states = model(input_ids=tokens, output_hidden_states=True).hidden_states
            layer = model.model.layers[2]
            before = layer.input_layernorm(states[2][0])
            parts["0"].append(states[1][0])
            parts["2"].append(states[3][0])
            parts["query"].append(layer.self_attn.q_proj(before))
            parts["value"].append(layer.self_attn.v_proj(before))
    return {name: torch.cat(one) for name, one in parts.items()}


def read(answer: pa.Table | None, rows: pa.Table, spec: CodecSpec = STATES) -> Any:
    assert answer is not None
    states = from_wire(answer, spec)
    return decode(
        states.append_column("loss_mask", whole_documents(rows).column("loss_mask")), spec
    )


@pytest.mark.parametrize("micro", [1000, 24])
def test_states_are_those_of_each_document_alone(
    micro: int, teacher_dir: Path, packed_rows: Callable[..., pa.Table]
) -> None:
    rows = packed_rows(DOCUMENTS)
    answer = engine_of(teacher_dir, micro).represent(rows, STATES, None)
    assert answer is not None
    assert answer.schema.equals(pa.schema([*wire_schema(STATES), schema.TEACHER_S]))
    found = read(answer, rows)
    model = AutoModelForCausalLM.from_pretrained(teacher_dir, dtype=torch.float32).eval()
    expected = own_states(model, rows)
    assert len(expected["0"]) > 40
    ours = {"0": found.hidden_TD[0], "2": found.hidden_TD[2], **found.projections_TW}
    for name, states in expected.items():
        torch.testing.assert_close(ours[name].float(), states, rtol=2**-8, atol=1e-5)


def test_soft_targets_come_with_them_from_one_pass(
    teacher_dir: Path, packed_rows: Callable[..., pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = packed_rows(DOCUMENTS)
    engine = engine_of(teacher_dir)
    alone, scored = engine.represent(rows, STATES, None), engine.score(rows, TOP_K)
    passes = []
    engine._model.model.register_forward_hook(lambda *_: passes.append(1))
    both = engine.represent(rows, STATES, TOP_K)
    assert len(passes) == 1
    assert both is not None
    assert alone is not None
    assert scored is not None
    fields = [*target_schema(TOP_K), *wire_schema(STATES), schema.TEACHER_S]
    assert both.schema.equals(pa.schema(fields))
    assert both.select(target_schema(TOP_K).names).equals(scored.drop_columns("teacher_s"))
    assert both.select(wire_schema(STATES).names).equals(alone.drop_columns("teacher_s"))


def test_other_states_of_one_engine(
    teacher_dir: Path, packed_rows: Callable[..., pa.Table]
) -> None:
    rows, engine = packed_rows(DOCUMENTS), engine_of(teacher_dir)
    first = read(engine.represent(rows, STATES, None), rows)
    fewer = replace(STATES, state_layers=(2,), attention_layer=None, attention_widths=())
    second = read(engine.represent(rows, fewer, None), rows, fewer)
    assert list(second.hidden_TD) == [2]
    assert not second.projections_TW
    assert torch.equal(first.hidden_TD[2], second.hidden_TD[2])


def test_a_state_that_is_no_number_names_its_row(
    teacher_dir: Path, packed_rows: Callable[..., pa.Table]
) -> None:
    rows, engine = packed_rows([[6], [7], [8]], learned=1.0), engine_of(teacher_dir, 16)
    poisoned = rows.column("input_ids").to_pylist()[1][0]

    def spoil(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        bad = (inputs[0] == poisoned)[..., None]
        return output.masked_fill(bad, float("nan"))

    engine._model.model.embed_tokens.register_forward_hook(spoil)
    with pytest.raises(SoftTargetError, match="row 1 of the request: the teacher's inner states"):
        engine.represent(rows, STATES, None)
