"""From what was told of a place to its soft target, against float64."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
import torch

from raykd.generation.given import known, targets_of
from raykd.models.token_bytes import TokenBytes
from raykd.soft_targets import top_k
from raykd.soft_targets.codec import decode, to_columns
from raykd.soft_targets.decoded import TopKTargets
from raykd.soft_targets.spec import CodecSpec

V = 40
VOCABULARY = TokenBytes(
    tuple(None if i < 4 else bytes([60 + i]) for i in range(V)),
    {bytes([60 + i]): (i,) for i in range(4, V)} | {b"<end>": (3,)},
    (2, 1, 0, *range(V - 1, 3, -1)),
)


def token(i: int) -> bytes:
    return bytes([60 + i])


def told(label: int, logprob: float, top: dict[int | bytes, float]) -> dict[str, Any]:
    likely = [
        {
            "token": token(name) if isinstance(name, int) else name,
            "token_id": None,
            "logprob": value,
        }
        for name, value in top.items()
    ]
    return {"token": token(label), "token_id": None, "logprob": logprob, "top": likely}


@pytest.fixture
def logprobs() -> torch.Tensor:
    torch.manual_seed(5)
    return (2 * torch.randn(V, dtype=torch.float64)).log_softmax(0)


def as_told(logprobs: torch.Tensor, label: int, k: int) -> dict[str, Any]:
    """What an endpoint says of a distribution, in float32."""
    float32 = logprobs.float().tolist()
    top = sorted(range(4, V), key=lambda i: -float32[i])[:k]
    return told(label, float32[label], {i: float32[i] for i in top})


@pytest.mark.parametrize("k", [1, 5, 20])
def test_kept_and_tail_are_the_distribution(logprobs: torch.Tensor, k: int) -> None:
    logprobs = logprobs.clone()
    logprobs[:4] = -math.inf  # ends are not among the likeliest here
    logprobs = logprobs.log_softmax(0)
    top = logprobs.topk(k)
    place = known(as_told(logprobs, int(top.indices[0]), k), int(top.indices[0]), k, VOCABULARY)
    assert list(place.logprobs) == top.indices.tolist()
    assert list(place.logprobs.values()) == pytest.approx(top.values.tolist(), abs=1e-6)
    rest = [i for i in range(V) if i not in place.logprobs]
    assert place.log_tail == pytest.approx(float(logprobs[rest].logsumexp(0)), abs=1e-5)
    assert place.label == pytest.approx(float(top.values[0]), abs=1e-6)


def test_more_is_told_than_is_kept(logprobs: torch.Tensor) -> None:
    place = known(as_told(logprobs, 7, 20), 7, 3, VOCABULARY)
    rest = [i for i in range(V) if i not in place.logprobs]
    assert len(place.logprobs) == 3
    assert place.log_tail == pytest.approx(float(logprobs[rest].logsumexp(0)), abs=1e-5)


def test_a_token_drawn_from_beyond_the_likeliest_is_known_too(logprobs: torch.Tensor) -> None:
    least = 4 + int(logprobs[4:].argmin())
    place = known(as_told(logprobs, least, 4), least, 8, VOCABULARY)
    assert place.logprobs[least] == pytest.approx(float(logprobs[least]), abs=1e-6)
    assert list(place.logprobs)[-1] == least
    assert place.label == pytest.approx(float(logprobs[least]), abs=1e-6)
    assert len(place.logprobs) == 5


def test_what_the_student_has_not_is_in_the_tail() -> None:
    place = known(told(5, -1.0, {5: -1.0, b"<tool>": -0.9, 6: -2.0}), 5, 3, VOCABULARY)
    assert list(place.logprobs) == [5, 6]
    assert place.log_tail == pytest.approx(math.log(1 - math.exp(-1) - math.exp(-2)))


def test_a_token_without_a_figure_is_bounded() -> None:
    place = known(told(9, -9999.0, {5: -0.1, 6: -3.0}), 9, 3, VOCABULARY)
    tail = math.log(1 - math.exp(-0.1) - math.exp(-3))
    assert list(place.logprobs) == [5, 6]
    assert place.label == pytest.approx(min(tail, -3.0))


def test_rounding_above_one_is_undone() -> None:
    place = known(told(5, 0.0, {5: 0.0, 6: -8.0}), 5, 2, VOCABULARY)
    assert math.fsum(map(math.exp, place.logprobs.values())) == pytest.approx(1)
    assert place.log_tail == -math.inf


def test_a_byte_that_looks_like_a_character_is_counted_once() -> None:
    doubled = TokenBytes(VOCABULARY.of_id, {**VOCABULARY.ids, token(5): (5, 8)}, (2, 1, 0))
    place = known(told(5, -0.5, {5: -0.5, 6: -2.0}), 8, 3, doubled)
    assert list(place.logprobs) == [8, 6]


@pytest.mark.parametrize("values", ["fp32", "bf16", "int8", "int6"])
def test_every_width_carries_them(values: str, logprobs: torch.Tensor) -> None:
    said = [
        as_told(logprobs, 7, 6),
        None,
        told(5, -1.0, {5: -1.0, 6: -2.0}),
        None,
    ]
    labels = [7, 3, 5, 2]
    spec = CodecSpec(codec="top_k", vocab_size=V, top_k=6, values=values)
    targets = targets_of(said, labels, 6, VOCABULARY)
    found = decode(pa.table(to_columns([top_k.pack(targets, spec)], spec)), spec)
    assert isinstance(found, TopKTargets)
    mass = found.logprobs_TK.double().exp().sum(1) + found.log_tail_TN[:, 0].double().exp()
    torch.testing.assert_close(mass, torch.ones(4).double(), rtol=0, atol=1e-4)
    assert found.ids_TK[1, 0] == 3
    assert found.ids_TK[3, 0] == 2
    for place in (1, 3):
        assert found.logprobs_TK[place].tolist() == [0.0] + 5 * [-math.inf]
        assert found.log_tail_TN[place, 0] == -math.inf
    # Where fewer are told the rest are ids that no text has.
    assert found.ids_TK[2, :2].tolist() == [5, 6]
    assert set(found.ids_TK[2, 2:].tolist()) == {2, 1, 0, 39}
    assert found.log_tail_TN[2, 0] == pytest.approx(math.log(1 - math.exp(-1) - math.exp(-2)))
    assert found.label_logprobs_T.tolist() == pytest.approx(
        [float(logprobs[7]), 0.0, -1.0, 0.0], abs=1e-6
    )
