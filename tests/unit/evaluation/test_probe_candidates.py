"""Which codecs a probe tries."""

from __future__ import annotations

from dataclasses import replace

from probed_cases import SPEC

from raykd.evaluation.probe_candidates import LARGEST_FULL, candidates


def test_what_a_small_vocabulary_has_room_for() -> None:
    labels = [one.label for one in candidates(SPEC)]
    assert labels == [
        *(f"top_k {k} int8" for k in (8, 16, 32, 64, 128, 256)),
        *("top_k 64 int6", "top_k 64 bf16", "top_k 64 fp32", "top_k 64 int8 no tail"),
        *("sampled 25", "sampled 50", "sampled 100", "hidden int8", "hidden bf16", "full bf16"),
    ]


def test_every_logit_is_not_tried_where_a_token_would_take_too_much() -> None:
    labels = [one.label for one in candidates(replace(SPEC, vocab_size=LARGEST_FULL + 1))]
    assert "full bf16" not in labels
    assert "top_k 512 int8" in labels


def test_settings_are_those_of_the_spec() -> None:
    for one in candidates(SPEC):
        for name, value in one.settings.items():
            assert getattr(one.spec, name) == value
