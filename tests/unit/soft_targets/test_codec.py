"""The one door: columns there and back for every codec, and what happens to wrong tables."""

import math
import pickle

import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from soft_target_cases import (
    LENGTHS,
    some_encoded,
    some_keys,
    some_labels,
    some_source,
    some_table,
    table_of,
)

from raykd.errors import SoftTargetError
from raykd.soft_targets import columns
from raykd.soft_targets.codec import (
    CodecSpec,
    Encoded,
    decode,
    encode,
    target_schema,
    to_columns,
)
from raykd.soft_targets.decoded import TokenTensors
from tests.codec_specs import FULL, HIDDEN, SAMPLED, SPECS, TOP_K, V

every_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


def assert_same(a: TokenTensors, b: TokenTensors) -> None:
    assert type(a) is type(b)
    for one, other in zip(a.tensors, b.tensors, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def whole(spec: CodecSpec) -> TokenTensors:
    """What one row of all tokens reads as."""
    return decode(table_of(some_encoded(spec), spec), spec)


@every_spec
def test_the_columns_are_the_declared_ones(spec: CodecSpec) -> None:
    for rows in (some_encoded(spec).split(LENGTHS), []):
        table = pa.table(to_columns(rows, spec))
        assert table.schema.equals(target_schema(spec))
        assert table.num_rows == len(rows)
    assert target_schema(spec).names[0] == "target_stamp"


@every_spec
def test_rows_chunks_and_slices_read_as_the_whole(spec: CodecSpec) -> None:
    table = some_table(spec)
    assert_same(decode(table, spec), whole(spec))
    assert_same(decode(pa.concat_tables([table.slice(0, 1), table.slice(1)]), spec), whole(spec))
    last = decode(table.slice(2), spec)
    rows = [pa.table(to_columns([part], spec)) for part in some_encoded(spec).split(LENGTHS)]
    assert_same(last, decode(rows[2], spec))


@every_spec
def test_no_rows_and_rows_without_tokens_read_as_none(spec: CodecSpec) -> None:
    table = some_table(spec)
    for empty in (table.slice(0, 0), table.slice(1, 1), table.schema.empty_table()):
        targets = decode(empty, spec)
        assert targets.num_tokens == 0
        assert {tensor.dtype for tensor in targets.tensors} == {
            tensor.dtype for tensor in whole(spec).tensors
        }
        assert [tensor.ndim for tensor in targets.tensors] == [
            tensor.ndim for tensor in whole(spec).tensors
        ]


@every_spec
def test_nothing_encoded_is_legal(spec: CodecSpec) -> None:
    nothing = some_encoded(spec, 0)
    assert nothing.num_tokens == 0
    assert decode(table_of(nothing, spec), spec).num_tokens == 0


@every_spec
def test_split_undoes_concatenate(spec: CodecSpec) -> None:
    encoded = some_encoded(spec)
    parts = encoded.split([1, 0, 3, 2])
    assert [part.num_tokens for part in parts] == [1, 0, 3, 2]
    joined = Encoded.concatenate(parts)
    assert joined.ragged == encoded.ragged
    for name, column in encoded.columns.items():
        assert torch.equal(joined.columns[name], column)
        assert torch.equal(encoded.cpu().columns[name], column)


@every_spec
def test_columns_stay_alive_with_their_tensors(spec: CodecSpec) -> None:
    targets = decode(some_table(spec), spec)
    junk = [torch.randn(6, V) for _ in range(50)]
    assert_same(targets, whole(spec))
    del junk


@every_spec
def test_reading_writes_nothing_into_the_table(spec: CodecSpec) -> None:
    table = some_table(spec)
    before = pa.table(table.to_pydict(), schema=table.schema)
    decode(table, spec)
    assert table.equals(before)


@pytest.mark.parametrize(
    ("spec", "name", "tensor"),
    [
        (SPECS["top_k fp32"], "target_logprobs", "logprobs_TK"),
        (SPECS["full fp32"], "target_logprobs", "logprobs_TV"),
        (SPECS["full bf16"], "target_logprobs", "logprobs_TV"),
        (SPECS["hidden fp32"], "target_hidden", "hidden_TD"),
        (SPECS["hidden bf16"], "target_hidden", "hidden_TD"),
    ],
)
def test_one_chunk_is_read_without_a_copy(spec: CodecSpec, name: str, tensor: str) -> None:
    table = some_table(spec)
    values = table.column(name).chunk(0).values
    assert getattr(decode(table, spec), tensor).data_ptr() == values.buffers()[1].address


@every_spec
def test_another_stamp_is_refused(spec: CodecSpec) -> None:
    other = CodecSpec(**{**vars(spec), "fingerprint": "another teacher"})
    with pytest.raises(
        SoftTargetError,
        match=r"row 40: its stamp .* targets of another codec, vocabulary or teacher",
    ):
        decode(some_table(spec), other)


def test_one_row_of_another_stamp_is_named() -> None:
    table = some_table(TOP_K)
    stamps = pa.array([TOP_K.stamp, TOP_K.stamp, TOP_K.stamp ^ 1], type=pa.uint32())
    with pytest.raises(SoftTargetError, match="row 42: its stamp"):
        decode(table.set_column(0, "target_stamp", stamps), TOP_K)


@pytest.mark.parametrize("wrong", [None, pa.array([1, 2, 3]), pa.array([1, None, 3], pa.uint32())])
def test_a_stamp_must_be_there(wrong: pa.Array | None) -> None:
    table = some_table(TOP_K).drop_columns(["target_stamp"])
    if wrong is not None:
        table = table.append_column("target_stamp", wrong)
    with pytest.raises(SoftTargetError, match="target_stamp"):
        decode(table, TOP_K)


def list_columns(spec: CodecSpec) -> list[str]:
    return target_schema(spec).names[1:]


@pytest.mark.parametrize(
    ("spec", "name"), [(spec, name) for spec in SPECS.values() for name in list_columns(spec)]
)
def test_a_truncated_row_is_named(spec: CodecSpec, name: str) -> None:
    table = some_table(spec)
    lists = table.column(name).to_pylist()
    lists[2] = lists[2][:-1]
    column = pa.array(lists, type=target_schema(spec).field(name).type)
    table = table.set_column(table.column_names.index(name), name, column)
    with pytest.raises(SoftTargetError, match=r"row 42: \w+ holds \d+ values, expected \d+"):
        decode(table, spec)


@every_spec
def test_targets_must_agree_with_the_mask(spec: CodecSpec) -> None:
    mask = pa.array([[1, 1, 1, 1, 1], [0, 0], [1, 1]], type=pa.list_(pa.uint8()))
    table = some_table(spec)
    table = table.set_column(table.column_names.index("loss_mask"), "loss_mask", mask)
    with pytest.raises(SoftTargetError, match=r"row 40: \w+ holds .*\(by the sum of its loss_mask"):
        decode(table, spec)


@every_spec
def test_missing_columns_other_types_and_nulls_are_refused(spec: CodecSpec) -> None:
    table = some_table(spec)
    for name in list_columns(spec):
        at = table.column_names.index(name)
        with pytest.raises(SoftTargetError, match=f"need a column {name}"):
            decode(table.drop_columns([name]), spec)
        strings = pa.array([["a"], [], ["b"]])
        with pytest.raises(SoftTargetError, match=f"need a column {name} of type"):
            decode(table.set_column(at, name, strings), spec)
        lists, kind = table.column(name).to_pylist(), table.schema.field(name).type
        for broken in ([*lists[:2], None], [*lists[:2], [None, *lists[2][1:]]]):
            with pytest.raises(SoftTargetError, match=f"{name} holds nulls"):
                decode(table.set_column(at, name, pa.array(broken, type=kind)), spec)


def test_rows_without_a_number_are_counted() -> None:
    table = some_table(TOP_K).drop_columns(["row"])
    lists = table.column("label_logprobs").to_pylist()
    lists[2][1] = math.nan
    at = table.column_names.index("label_logprobs")
    broken = table.set_column(at, "label_logprobs", pa.array(lists, type=pa.list_(pa.float32())))
    with pytest.raises(SoftTargetError, match="row 2 of this table, token 1"):
        decode(broken, TOP_K)


def test_more_values_than_offsets_count_are_refused() -> None:
    many = torch.zeros(1).expand(2**31)
    with pytest.raises(SoftTargetError, match=r"would hold 2,147,483,648 values.*soft_targets"):
        columns.to_list_column(columns.Column("target_logprobs", pa.float32(), 1), [many])


def test_encode_wants_what_its_codec_needs() -> None:
    logits_TV, labels_T, keys_T = torch.zeros(2, V), torch.zeros(2, dtype=torch.long), some_keys(2)
    with pytest.raises(ValueError, match="vocab_size is 11; logits are"):
        encode(torch.zeros(2, V + 1), labels_T, keys_T, TOP_K)
    for spec in (TOP_K, SAMPLED, FULL):
        with pytest.raises(ValueError, match="needs labels"):
            encode(logits_TV, None, keys_T, spec)
    with pytest.raises(ValueError, match="needs keys"):
        encode(logits_TV, labels_T, None, SAMPLED)
    with pytest.raises(ValueError, match="one key a token"):
        encode(logits_TV, labels_T, some_keys(3), SAMPLED)
    with pytest.raises(ValueError, match="hidden_size is 6"):
        encode(torch.zeros(2, 5), None, None, HIDDEN)


def test_the_source_is_only_read() -> None:
    for spec in SPECS.values():
        source = torch.randn(3, spec.hidden_size if spec.source == "hidden" else spec.vocab_size)
        before = source.clone()
        encode(source, torch.tensor([0, 1, 2]), some_keys(3), spec)
        assert torch.equal(source, before)


@every_spec
def test_the_teachers_inference_mode_makes_no_difference(spec: CodecSpec) -> None:
    with torch.inference_mode():
        table = table_of(some_encoded(spec), spec)
    assert_same(decode(table, spec), whole(spec))


@pytest.mark.gpu
@every_spec
def test_a_gpu_encodes_what_a_cpu_does(spec: CodecSpec) -> None:
    source = some_source(spec, 6)
    labels_T, keys_T = torch.arange(6) % 5, some_keys(6)
    encoded = encode(source.cuda(), labels_T.cuda(), keys_T.cuda(), spec)
    assert {column.device.type for column in encoded.columns.values()} == {"cuda"}
    for tensor, other in zip(
        decode(table_of(encoded, spec), spec, "cuda").tensors, whole(spec).tensors, strict=True
    ):
        torch.testing.assert_close(tensor.cpu(), other, rtol=1e-4, atol=1e-4)


def test_targets_go_to_a_device() -> None:
    for spec in SPECS.values():
        for tensor in decode(some_table(spec), spec, "meta").tensors:
            assert tensor.device.type == "meta"


def test_specs_travel() -> None:
    for spec in SPECS.values():
        assert pickle.loads(pickle.dumps(spec)) == spec
        assert pickle.loads(pickle.dumps(spec)).stamp == spec.stamp


ANY_LOGIT = st.one_of(st.sampled_from([-math.inf, 0.0, 1.0]), st.floats(-40, 40, width=32))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_the_teacher_says_arrives(data: st.DataObject) -> None:
    """Any shape, k, temperature, ties and ids ruled out: checks pass, laws hold."""
    num_tokens, vocab_size = data.draw(st.integers(0, 5)), data.draw(st.integers(1, 9))
    row = st.lists(ANY_LOGIT, min_size=vocab_size, max_size=vocab_size).filter(
        lambda logits: max(logits) > -math.inf
    )
    rows = data.draw(st.lists(row, min_size=num_tokens, max_size=num_tokens))
    logits_TV = torch.tensor(rows).reshape(num_tokens, vocab_size)
    tau = data.draw(st.sampled_from([0.4, 1.0, 1.7, 8.0]))
    codec = data.draw(st.sampled_from(["top_k", "sampled", "full"]))
    spec = CodecSpec(
        codec,
        vocab_size,
        (1.0, tau),
        top_k=data.draw(st.integers(1, vocab_size)),
        values=data.draw(
            st.sampled_from(
                ["fp32", "bf16"] if codec == "full" else ["fp32", "bf16", "int8", "int6"]
            )
        ),
        tail=data.draw(st.booleans()),
        draws=data.draw(st.integers(1, 255)),
        proposal_temperature=data.draw(st.sampled_from([None, 1.3])),
    )
    labels_T = some_labels(num_tokens, vocab_size)
    encoded = encode(logits_TV, labels_T, some_keys(num_tokens), spec)
    cut = data.draw(st.integers(0, num_tokens))
    table = pa.table(to_columns(encoded.split([cut, num_tokens - cut]), spec))
    targets = decode(table, spec)
    assert targets.num_tokens == num_tokens
    logprobs_TV = logits_TV.double().log_softmax(1)
    if codec == "top_k":
        check_top_k(targets, logprobs_TV, spec)
    elif codec == "full":
        digits = 0.0 if spec.values == "fp32" else 2.0**-8
        torch.testing.assert_close(
            targets.logprobs_TV.double(), logprobs_TV, rtol=digits, atol=1e-4
        )
    else:
        check_sampled(targets, logprobs_TV, spec)
    expected_T = logprobs_TV.gather(1, labels_T[:, None])[:, 0]
    torch.testing.assert_close(targets.label_logprobs_T.double(), expected_T, rtol=0, atol=1e-4)


def check_top_k(targets: TokenTensors, logprobs_TV: torch.Tensor, spec: CodecSpec) -> None:
    kept_TK = logprobs_TV.gather(1, targets.ids_TK.long())
    torch.testing.assert_close(
        kept_TK.sort(1, descending=True).values, logprobs_TV.topk(spec.top_k, dim=1).values
    )
    # The likeliest of all comes first, whatever the rounding.
    torch.testing.assert_close(kept_TK[:, 0], logprobs_TV.amax(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(
        targets.logprobs_TK.double().logsumexp(1), kept_TK.logsumexp(1), rtol=0, atol=1e-5
    )
    assert torch.equal(targets.logprobs_TK == -math.inf, kept_TK == -math.inf)
    furthest = {"fp32": 1e-4, "bf16": 0.52, "int8": 80 / 253 + 1e-2, "int6": 80 / 61 + 1e-2}
    torch.testing.assert_close(
        targets.logprobs_TK.double(), kept_TK, rtol=0, atol=furthest[spec.values]
    )
    left_TV = logprobs_TV.scatter(1, targets.ids_TK.long(), -math.inf)
    for n, tau in enumerate(spec.temperatures):
        found_T = targets.log_tail_TN[:, n].double()
        nothing_T = torch.full_like(found_T, -math.inf)
        expected_T = (left_TV / tau).logsumexp(1) if spec.tail else nothing_T
        torch.testing.assert_close(found_T, expected_T, rtol=1e-5, atol=1e-4)


def check_sampled(targets: TokenTensors, logprobs_TV: torch.Tensor, spec: CodecSpec) -> None:
    p_TV = (logprobs_TV / spec.target_temperature).softmax(1)
    q_TV = (logprobs_TV / spec.proposal).softmax(1)
    ids_TU, weights_TU = targets.ids_TU.long(), targets.weights_TU.double()
    drawn_TU = weights_TU > 0
    assert bool((p_TV.gather(1, ids_TU)[drawn_TU] > 0).all())
    counts_TU = weights_TU * spec.draws * (q_TV / p_TV).gather(1, ids_TU)
    counts_TU = torch.where(drawn_TU, counts_TU, 0.0)
    torch.testing.assert_close(counts_TU, counts_TU.round(), rtol=0, atol=1e-2)
    drawn = torch.full_like(counts_TU[:, 0], spec.draws)
    torch.testing.assert_close(counts_TU.sum(1), drawn, rtol=1e-3, atol=0)
    # A count is one of the two whole numbers beside its mean.
    off_TU = (counts_TU - spec.draws * q_TV.gather(1, ids_TU)).abs()
    assert bool((off_TU[drawn_TU] < 1.01).all())
    entropy_T = -torch.special.xlogy(p_TV, p_TV).sum(1)
    torch.testing.assert_close(targets.entropy_T.double(), entropy_T, rtol=0, atol=1e-4)
