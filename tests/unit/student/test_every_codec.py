"""The module's loss from every codec, as it arrives by wire, against the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from dense_reference import kl, own_logits

from raykd.models.batch import collate, flat
from raykd.models.head import hidden_states, save_head
from raykd.soft_targets.codec import Encoded, encode, to_columns, token_keys
from raykd.soft_targets.spec import CodecSpec
from raykd.student.module import DistillationModule
from raykd.student.targets import TargetReader
from raykd.student.weights import token_weights

VOCAB, HIDDEN = 320, 32
CPU = torch.device("cpu")
DOCUMENTS = [[5, 7], [12], [3, 3, 9], [4]]


@pytest.fixture
def teacher(make_llama: Callable[..., Any]) -> Any:
    return make_llama(1, num_hidden_layers=3)


@torch.no_grad()
def sent(rows: pa.Table, teacher: Any, spec: CodecSpec) -> pa.Table:
    """Rows with soft targets beside them, each row encoded alone."""
    encoded = []
    for i in range(rows.num_rows):
        batch = collate(rows.slice(i, 1))
        hidden = hidden_states(teacher, batch.input_ids_BT, batch.position_ids_BT)
        source = hidden.flatten(0, 1)[batch.keep_M]
        if spec.source == "logits":
            source = teacher.lm_head(source)
        keys = token_keys([flat(rows.slice(i, 1), "input_ids")[0]], [len(batch.keep_M)], 5)
        encoded.append(encode(source, batch.label_ids_M, keys, spec))
    assert all(isinstance(one, Encoded) for one in encoded)
    columns = to_columns(encoded, spec)
    return pa.table([*rows.columns, *columns.values()], names=[*rows.column_names, *columns])


def read(rows: pa.Table, teacher: Any, spec: CodecSpec, temperature: float, directory: Path) -> Any:
    file = directory / "head.safetensors"
    save_head(teacher, file, write=True)
    return TargetReader(spec, temperature, file, CPU)(rows)


EXACT = [
    {"codec": "top_k", "top_k": VOCAB, "values": "fp32"},
    {"codec": "hidden", "hidden_size": HIDDEN, "hidden_values": "fp32"},
    {"codec": "full", "values": "fp32"},
]


@pytest.mark.parametrize("settings", EXACT, ids=lambda s: s["codec"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_exact_codecs_give_the_divergence_over_the_vocabulary(
    settings: dict[str, Any],
    temperature: float,
    teacher: Any,
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    temperatures = (1.0,) if temperature == 1.0 else (1.0, temperature)
    spec = CodecSpec(vocab_size=VOCAB, temperatures=temperatures, **settings)
    rows = packed_rows(DOCUMENTS)
    arrived = read(sent(rows, teacher, spec), teacher, spec, temperature, tmp_path)
    model, twin = make_llama(3), make_llama(3)
    module = DistillationModule(model, make_job({"loss.temperature": temperature}), VOCAB)
    parts = module(collate(rows), arrived.targets, None)
    with torch.no_grad():
        p = torch.softmax(own_logits(teacher, rows)[0] / temperature, -1)
    q = torch.softmax(own_logits(twin, rows)[0] / temperature, -1)
    expected = temperature**2 * kl(p, q)
    assert parts.total.item() == pytest.approx(expected.item(), rel=1e-5)
    parts.total.backward()
    expected.backward()
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(
            ours.grad, theirs.grad, atol=1e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("settings", "within"),
    [
        ({"codec": "hidden", "hidden_size": HIDDEN, "hidden_values": "bf16"}, 5e-3),
        ({"codec": "hidden", "hidden_size": HIDDEN, "hidden_values": "int8"}, 2e-2),
        ({"codec": "full", "values": "bf16"}, 2e-2),
        ({"codec": "top_k", "top_k": 300, "values": "int8"}, 2e-2),
        # by chance, and the student is far away: the mean over these tokens is near
        ({"codec": "sampled", "draws": 200}, 5e-2),
    ],
    ids=["hidden bf16", "hidden int8", "full bf16", "top_k int8", "sampled"],
)
def test_narrow_codecs_come_near(
    settings: dict[str, Any],
    within: float,
    teacher: Any,
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    spec = CodecSpec(vocab_size=VOCAB, **settings)
    rows = packed_rows(DOCUMENTS)
    arrived = read(sent(rows, teacher, spec), teacher, spec, 1.0, tmp_path)
    model = make_llama(3)
    with torch.no_grad():
        p = torch.softmax(own_logits(teacher, rows)[0], -1)
        q = torch.softmax(own_logits(model, rows)[0], -1)
        expected = kl(p, q).item()
        found = DistillationModule(model, make_job(), VOCAB)(collate(rows), arrived.targets, None)
    assert found.total.item() == pytest.approx(expected, rel=within)


def test_fifty_steps_from_hidden_are_those_from_full(
    teacher: Any,
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """A bf16 teacher's hidden states lose nothing on the way, so neither do its logits."""
    import copy

    rounded = copy.deepcopy(teacher).bfloat16()
    told: dict[str, list[float]] = {}
    for settings in (
        {"codec": "full", "values": "fp32"},
        {"codec": "hidden", "hidden_size": HIDDEN, "hidden_values": "bf16"},
    ):
        spec = CodecSpec(vocab_size=VOCAB, **settings)
        model = make_llama(3)
        module = DistillationModule(model, make_job(), VOCAB)
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        losses = []
        for step in range(50):
            rows = packed_rows(DOCUMENTS, seed=step)
            arrived = read(sent(rows, rounded, spec), rounded, spec, 1.0, tmp_path)
            batch = collate(rows)
            parts = module(batch, arrived.targets, None)
            loss = parts.total / len(batch.keep_M)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        told[spec.codec] = losses
    assert told["full"][-1] < 0.7 * told["full"][0], "it learns"
    assert told["hidden"] == pytest.approx(told["full"], rel=1e-4)


def test_a_weighted_step_is_a_weighted_mean(
    teacher: Any,
    make_job: Callable[..., Any],
    make_llama: Callable[..., Any],
    packed_rows: Callable[..., Any],
    tmp_path: Path,
) -> None:
    spec = CodecSpec("full", VOCAB, values="fp32")
    rows = packed_rows(DOCUMENTS)
    arrived = read(sent(rows, teacher, spec), teacher, spec, 1.0, tmp_path)
    job = make_job({"loss.token_weights": {"teacher_confidence": 1.5}, "loss.alpha": 0.3})
    model = make_llama(3)
    weights_M = token_weights(collate(rows), arrived.label_logprobs_M, job.loss.token_weights)
    assert weights_M is not None
    with torch.no_grad():
        found = DistillationModule(model, job, VOCAB)(collate(rows), arrived.targets, weights_M)
        logits_MV, labels_M = own_logits(teacher, rows)
        log_p = torch.log_softmax(logits_MV, -1)
        log_q = torch.log_softmax(own_logits(model, rows)[0], -1)
        kl_M = (log_p.exp() * (log_p - log_q)).sum(1)
        at = labels_M[:, None]
        nll_M = -log_q.gather(1, at)[:, 0]
        expected_M = log_p.gather(1, at)[:, 0].exp() ** 1.5
        expected = (expected_M * (0.7 * kl_M + 0.3 * nll_M)).sum()
    assert found.total.item() == pytest.approx(expected.item(), rel=1e-4)
