"""From figures to advice."""

from __future__ import annotations

from typing import Any

import pytest

from raykd.evaluation.probe_data import CodecFound, TeacherFound
from raykd.evaluation.recommend import recommend


def codec(label: str, rest: float, cosine: float, bias: float, **fields: Any) -> CodecFound:
    given: dict[str, Any] = {
        "settings": {"codec": label},
        "wire_bytes": 2 * rest,
        "loss_gap": 0.0,
        "encode_tokens_per_s": 1.0,
        "decode_tokens_per_s": 1.0,
    }
    return CodecFound(label=label, rest_bytes=rest, cosine=cosine, bias=bias, **{**given, **fields})


def teacher(entropy: float) -> TeacherFound:
    return TeacherFound(
        entropy_mean=entropy,
        entropy_median=entropy,
        entropy_p95=entropy,
        top1_mass=0.5,
        mass_by_k={8: (0.9, 0.5)},
    )


LARGE = codec("hidden", 800.0, 1.0, 0.0)
SMALL = codec("sampled", 40.0, 0.97, -0.002)
BIASED = codec("top_k", 30.0, 0.99, -0.05)
NOISY = codec("sampled few", 10.0, 0.8, 0.0)


def test_the_smallest_that_is_true_enough() -> None:
    found = recommend([LARGE, SMALL, BIASED, NOISY], teacher(2.0), 100.0, 100.0, 1)
    assert found.settings == {"codec": "sampled"}
    assert "of 2 with cosine >= 0.95 and bias within 1%" in found.codec_reason
    assert "40 a token (cosine 0.9700, bias -0.20%)" in found.codec_reason


def test_one_that_cannot_serve_the_loss_is_left_out() -> None:
    refused = SMALL.model_copy(update={"refused": "serves forward_kl only"})
    assert recommend([LARGE, refused], teacher(2.0), 1.0, 1.0, 1).settings == {"codec": "hidden"}


def test_where_none_is_true_enough_the_nearest() -> None:
    found = recommend([BIASED, NOISY], teacher(2.0), 1.0, 1.0, 1)
    assert found.settings == {"codec": "top_k"}
    assert "it is the nearest (cosine 0.9900)" in found.codec_reason


@pytest.mark.parametrize(("entropy", "temperature"), [(0.1, 2.0), (0.6, 1.0), (4.0, 1.0)])
def test_a_teacher_that_is_nearly_sure_is_softened(entropy: float, temperature: float) -> None:
    found = recommend([LARGE], teacher(entropy), 1.0, 1.0, 1)
    assert found.temperature == temperature
    assert f"{entropy:.2f} nats" in found.temperature_reason


@pytest.mark.parametrize(
    ("teacher_rate", "student_rate", "ranks", "replicas"),
    [(100.0, 50.0, 1, 1), (100.0, 100.0, 4, 4), (100.0, 130.0, 4, 6), (900.0, 10.0, 2, 1)],
)
def test_replicas_that_keep_the_student_busy(
    teacher_rate: float, student_rate: float, ranks: int, replicas: int
) -> None:
    found = recommend([LARGE], teacher(2.0), teacher_rate, student_rate, ranks)
    assert found.replicas == replicas
