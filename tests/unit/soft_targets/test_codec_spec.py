"""What a spec refuses, and what its stamp depends on."""

import math
from dataclasses import replace

import pytest

from raykd.errors import SoftTargetError
from raykd.soft_targets.spec import CodecSpec
from tests.codec_specs import FULL, HIDDEN, SAMPLED, TOP_K


@pytest.mark.parametrize(
    ("spec", "field", "value", "allowed"),
    [
        (TOP_K, "codec", "top-k", "one of top_k, sampled, hidden, full"),
        (TOP_K, "vocab_size", 0, "from 1"),
        (TOP_K, "top_k", 0, "at least 1"),
        (TOP_K, "values", "int4", "one of fp32, bf16, int8, int6"),
        (TOP_K, "temperatures", (), "begin with 1.0"),
        (TOP_K, "temperatures", (2.0,), "begin with 1.0"),
        (SAMPLED, "temperatures", (1.0, 0.0), "above 0"),
        (FULL, "temperatures", (1.0, math.inf), "finite"),
        (HIDDEN, "temperatures", (1.0, math.nan), "finite"),
        (SAMPLED, "draws", 0, "from 1 to 255"),
        (SAMPLED, "draws", 256, "from 1 to 255"),
        (SAMPLED, "proposal_temperature", 0.0, "above 0"),
        (SAMPLED, "proposal_temperature", math.nan, "above 0"),
        (HIDDEN, "hidden_size", 0, "at least 1"),
        (HIDDEN, "hidden_values", "int6", "one of fp32, bf16, int8"),
        (FULL, "values", "int8", "one of fp32, bf16 with codec full"),
    ],
)
def test_a_field_outside_is_named(spec: CodecSpec, field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"{field} must.*{allowed}.*; found"):
        replace(spec, **{field: value})


def test_top_k_above_the_vocabulary_names_both() -> None:
    with pytest.raises(SoftTargetError, match=r"top_k is 12.* 11 ids"):
        replace(TOP_K, top_k=12)


def test_fields_of_other_codecs_are_not_looked_at() -> None:
    assert replace(SAMPLED, top_k=10**6, values="none").codec == "sampled"


@pytest.mark.parametrize(
    ("spec", "changes"),
    [
        (
            TOP_K,
            {"vocab_size": 12, "top_k": 4, "values": "int8", "tail": False, "temperatures": (1.0,)},
        ),
        (
            SAMPLED,
            {
                "vocab_size": 12,
                "draws": 8,
                "proposal_temperature": 1.5,
                "temperatures": (1.0, 3.0),
            },
        ),
        (HIDDEN, {"hidden_size": 7, "hidden_values": "bf16"}),
        (FULL, {"vocab_size": 12, "values": "bf16"}),
    ],
)
def test_the_stamp_is_of_all_that_decides_the_columns(
    spec: CodecSpec, changes: dict[str, object]
) -> None:
    others = [replace(spec, **{field: value}) for field, value in changes.items()]
    others += [replace(spec, fingerprint="another teacher")]
    stamps = {spec.stamp, *(other.stamp for other in others)}
    assert len(stamps) == len(others) + 1
    assert all(0 <= stamp < 2**32 for stamp in stamps)


def test_what_a_codec_does_not_use_leaves_its_stamp() -> None:
    assert replace(FULL, temperatures=(1.0, 4.0), top_k=2, seed=9).stamp == FULL.stamp
    assert replace(TOP_K, draws=3, seed=9, hidden_size=4).stamp == TOP_K.stamp
    no_tail = replace(TOP_K, tail=False)
    assert replace(no_tail, temperatures=(1.0, 4.0)).stamp == no_tail.stamp
    # Draws of another seed are as good, so that another student can read them.
    assert replace(SAMPLED, seed=9).stamp == SAMPLED.stamp
    # The default written out is the default.
    assert replace(SAMPLED, proposal_temperature=2.0).stamp == SAMPLED.stamp


def test_facts_name_what_decides_the_columns() -> None:
    assert TOP_K.facts == {
        "codec": "top_k",
        "vocab_size": 11,
        "top_k": 3,
        "values": "fp32",
        "tail": True,
        "temperatures": [1.0, 2.0],
    }
    assert HIDDEN.facts == {"codec": "hidden", "hidden_size": 6, "hidden_values": "fp32"}
    assert replace(SAMPLED, seed=9).facts == SAMPLED.facts
    assert SAMPLED.facts["proposal"] == 2.0


def test_the_stamp_is_the_same_everywhere() -> None:
    """Stored with the targets: a change of this number makes every store worthless."""
    assert CodecSpec("top_k", 49152).stamp == CodecSpec("top_k", 49152).stamp
    assert isinstance(hash(TOP_K), int)
