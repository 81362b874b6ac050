"""Inner states on the wire: which tokens have them, round trips, refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd import schema
from raykd.errors import SoftTargetError
from raykd.soft_targets.codec import decode, target_schema, to_columns
from raykd.soft_targets.spec import CodecSpec
from raykd.soft_targets.states import (
    documents_of,
    encode,
    from_wire,
    learned_tokens,
    to_wire,
    whole_documents,
    wire_schema,
)
from raykd.soft_targets.teacher_output import TokenError

SPEC = CodecSpec(
    "states",
    320,
    hidden_size=4,
    state_layers=(1, 3),
    attention_layer=3,
    attention_widths=(("query", 6), ("value", 2)),
    fingerprint="teacher",
)


def rows_of(*rows: tuple[list[int], list[int]]) -> pa.Table:
    """Rows of (positions, loss mask)."""
    return pa.table(
        {
            "input_ids": [list(range(len(positions))) for positions, _ in rows],
            "position_ids": [positions for positions, _ in rows],
            "loss_mask": [mask for _, mask in rows],
        },
        schema=schema.PREPARED,
    )


# A prompt, a document without a token to learn, padding; then a row of nothing but padding.
ROWS = rows_of(
    ([0, 1, 2, 3, 0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 0, 0, 1, 0, 0, 0]), ([0, 0], [0, 0]), ([0], [0])
)


def test_all_tokens_of_documents_with_a_token_to_learn() -> None:
    found = documents_of(ROWS)
    assert found.mask.tolist() == [1, 1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert found.lengths_tokens == [4, 2]
    assert found.row_tokens == [6, 0, 0]


def test_a_row_begins_a_document_wherever_its_positions_begin() -> None:
    found = documents_of(rows_of(([0, 1], [0, 0]), ([2, 3, 0], [1, 0, 0])))
    assert found.mask.tolist() == [0, 0, 1, 1, 0]


def test_documents_of_slices_and_of_no_rows() -> None:
    both = pa.concat_tables([ROWS, ROWS])
    assert documents_of(both.slice(3)).mask.tolist() == documents_of(ROWS).mask.tolist()
    assert documents_of(ROWS.slice(0, 0)).row_tokens == []
    assert whole_documents(ROWS.slice(0, 0)).num_rows == 0


def test_the_mask_goes_and_comes_back() -> None:
    whole = whole_documents(ROWS)
    assert whole.column("loss_mask").to_pylist()[0] == [1, 1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert whole_documents(whole).equals(whole)
    assert learned_tokens(whole).equals(ROWS)
    assert learned_tokens(ROWS).equals(ROWS)
    again = whole_documents(rows_of(*[([0, 1], [1, 1])]))
    assert again.column("loss_mask").to_pylist() == [[1, 1]]


def states_of(tokens: int, seed: int = 0) -> tuple[dict[int, Any], dict[str, Any]]:
    draw = torch.Generator().manual_seed(seed)
    return (
        {at: torch.randn(tokens, 4, generator=draw) for at in SPEC.state_layers},
        {name: torch.randn(tokens, w, generator=draw) for name, w in SPEC.attention_widths},
    )


def sent(spec: CodecSpec = SPEC) -> tuple[pa.Table, dict[int, Any], dict[str, Any]]:
    """Six tokens in the first row, none in the others."""
    hidden, projections = states_of(6)
    columns = to_columns(encode(hidden, projections, spec).split([6, 0, 0]), spec)
    table = whole_documents(ROWS)
    for name, column in columns.items():
        table = table.append_column(name, column)
    return table, hidden, projections


def test_round_trip_is_rounding_to_bf16() -> None:
    table, hidden, projections = sent()
    assert table.select(target_schema(SPEC).names).schema.equals(target_schema(SPEC))
    found = decode(table, SPEC)
    for at in SPEC.state_layers:
        assert torch.equal(found.hidden_TD[at], hidden[at].bfloat16())
    for name, _ in SPEC.attention_widths:
        assert torch.equal(found.projections_TW[name], projections[name].bfloat16())


def test_bytes_are_those_of_the_formula() -> None:
    table, *_ = sent()
    lists = [table.column(name).chunk(0) for name in target_schema(SPEC).names[1:]]
    # two layers of 4 components and projections of 6 and 2, two bytes each, six tokens
    assert sum(one.flatten().nbytes for one in lists) == 6 * 2 * (2 * 4 + 6 + 2)


def test_the_stamp_has_another_name_beside_soft_targets() -> None:
    table = sent()[0].select(target_schema(SPEC).names)
    travelling = to_wire(table)
    assert travelling.schema.equals(wire_schema(SPEC))
    assert from_wire(travelling, SPEC).equals(table)


@pytest.mark.parametrize(
    "changes",
    [
        {"state_layers": (1, 2)},
        {"hidden_size": 5},
        {"attention_layer": 2},
        {"attention_widths": (("query", 6), ("key", 2))},
        {"fingerprint": "another"},
    ],
)
def test_other_states_have_another_stamp(changes: dict[str, Any]) -> None:
    assert replace(SPEC, **changes).stamp != SPEC.stamp


def test_the_form_of_soft_targets_is_not_in_the_stamp() -> None:
    assert replace(SPEC, vocab_size=9, top_k=3, temperatures=(1.0, 2.0), seed=4).stamp == SPEC.stamp


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"state_layers": (3, 1)}, "state_layers"),
        ({"state_layers": (1, 1)}, "state_layers"),
        ({"state_layers": (), "attention_layer": None, "attention_widths": ()}, "state_layers"),
        ({"attention_layer": None}, "attention_widths"),
        ({"hidden_size": 0}, "hidden_size"),
    ],
)
def test_a_spec_that_is_not_one(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(SPEC, **changes)


def test_facts_survive_json() -> None:
    import json

    assert json.loads(json.dumps(SPEC.facts)) == SPEC.facts


def test_states_that_are_no_numbers_are_refused_at_both_ends() -> None:
    hidden, projections = states_of(6)
    projections["value"][4, 1] = float("inf")
    with pytest.raises(TokenError, match="token 4: the teacher's inner states"):
        encode(hidden, projections, SPEC)
    table, *_ = sent()
    broken = table.column("state_hidden_3").to_pylist()
    broken[0][9] = 0x7FC0  # NaN
    at = table.schema.get_field_index("state_hidden_3")
    table = table.set_column(at, table.schema.field(at), pa.array(broken, pa.list_(pa.uint16())))
    with pytest.raises(SoftTargetError, match=r"row 0 of this table, token 2 .* NaN or inf"):
        decode(table, SPEC)


def test_truncated_states_and_those_of_another_job_are_refused() -> None:
    table, *_ = sent()
    with pytest.raises(SoftTargetError, match="expected"):
        decode(learned_tokens(table), SPEC)
    with pytest.raises(SoftTargetError, match="its stamp is"):
        decode(table, replace(SPEC, fingerprint="another"))


def test_a_width_that_is_not_the_specs() -> None:
    hidden, projections = states_of(6)
    with pytest.raises(ValueError, match=r"state_hidden_1 is 4 wide; .* \(6, 3\)"):
        encode({**hidden, 1: hidden[1][:, :3]}, projections, SPEC)


def test_documents_are_those_of_the_packed_rows(packed_rows: Callable[..., pa.Table]) -> None:
    rows = packed_rows([[5, 7], [1, 1, 1], [12]], seed=3)
    found = documents_of(rows)
    assert found.lengths_tokens == [5, 7, 12]
    assert found.row_tokens == [12, 0, 12]
