"""The section `representations`, and what does not go with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

MakeJob = Callable[..., Any]
HIDDEN = {"representations": {"hidden": {}}}
ALONE = {"soft_targets": {}, **HIDDEN, "method": "representations"}


def test_added_to_logits_and_alone(make_job: MakeJob) -> None:
    plain, added, alone = make_job(), make_job(HIDDEN), make_job(ALONE)
    assert plain.learns_from_logits
    assert added.learns_from_logits
    assert not alone.learns_from_logits
    assert alone.needs_teacher_for_training
    hard = make_job({"loss.alpha": 1.0, **HIDDEN})
    assert not hard.learns_from_logits
    assert hard.needs_teacher_for_training
    assert not make_job({"loss.alpha": 1.0}).needs_teacher_for_training


@pytest.mark.parametrize("layers", ["even", "last", {0: 1}, {"0": 1, "1": "3"}])
def test_maps(layers: Any, make_job: MakeJob) -> None:
    found = make_job({"representations": {"layers": layers, "hidden": {}}}).representations.layers
    assert found == layers or found == {0: 1, 1: 3}


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({}, "give `hidden`, `attention` or both"),
        ({"layers": "first", "hidden": {}}, "even, last, or a map .* found 'first'"),
        ({"layers": {}, "hidden": {}}, "even, last, or a map"),
        ({"layers": {-1: 2}, "hidden": {}}, "even, last, or a map"),
        ({"layers": {"a": 2}, "hidden": {}}, "even, last, or a map"),
        ({"hidden": {"loss": "kl"}}, "cosine"),
        ({"hidden": {"weight": 0}}, "greater than 0"),
        ({"attention": {"relations": []}}, "one or more of query, key, value, each once"),
        ({"attention": {"relations": ["key", "key"]}}, "each once; found key, key"),
        ({"attention": {"relations": ["output"]}}, "query"),
    ],
)
def test_a_section_that_is_wrong(section: dict[str, Any], said: str, make_job: MakeJob) -> None:
    with pytest.raises(ValidationError, match=said) as caught:
        make_job({"representations": section})
    assert len(caught.value.errors()) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "representations", "soft_targets": {}}, "needs a section `representations`"),
        ({**ALONE, "loss.temperature": 2.0}, "loss.temperature: .* it would change nothing"),
        ({**ALONE, "loss.divergence": "jsd"}, "loss.divergence: "),
        ({**ALONE, "soft_targets": {"codec": "hidden"}}, "soft_targets.codec: "),
        ({**ALONE, "soft_targets": {"top_k": 8}}, "soft_targets.top_k: "),
        (
            {**ALONE, "loss.token_weights": {"position_ramp_tokens": 2}},
            "loss.token_weights.position_ramp_tokens: ",
        ),
        (
            {**ALONE, "loss.alpha": 0.5, "loss.token_weights": {"teacher_confidence": 1}},
            "loss.token_weights.teacher_confidence: ",
        ),
        (
            {**ALONE, "loss.alpha": 0.5, "loss.token_weights": {"drop_documents_below": 0.1}},
            "loss.token_weights.drop_documents_below: ",
        ),
    ],
)
def test_what_would_change_nothing_is_refused(
    changes: dict[str, Any], said: str, make_job: MakeJob
) -> None:
    with pytest.raises(ValidationError, match=said):
        make_job({"soft_targets": {}, **changes})


def test_what_still_counts_alone(make_job: MakeJob) -> None:
    job = make_job(
        {
            **ALONE,
            "soft_targets": {"store_mode": "fill"},
            "loss": {"alpha": 0.5, "token_weights": {"position_ramp_tokens": 2}},
        }
    )
    assert job.soft_targets.store_mode == "fill"
