"""What a plan makes of text that is yet to be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raykd.pipeline.plan import phases
from raykd.planning.accelerators import read_accelerators
from raykd.planning.amount import amount
from raykd.planning.model_files import read_models
from raykd.planning.planner import Asked, make_plan
from raykd.planning.speed import Rates

RATES = Rates(teacher_tokens_per_s=1000.0, student_tokens_per_s=400.0, source="a test")
SEQUENCE = {
    "method": "sequence",
    "loss": {},
    "data.corpus": {"source": "x", "max_documents": 100},
    "data.packing": "pad",
    "data.long_documents": "cut",
    "evaluation.heldout_fraction": 0.25,
}
DRAWN = {"sampling": {"temperature": 1.0}, "num_samples": 4}


@pytest.mark.parametrize(
    ("generation", "rows"), [({}, 75), (DRAWN, 300), ({**DRAWN, "keep_best": 2}, 150)]
)
def test_every_completion_may_be_a_row(
    generation: dict[str, Any], rows: int, make_job: Callable[..., Any]
) -> None:
    found = amount(make_job({**SEQUENCE, "generation": generation}))
    assert found.rows == rows
    assert "a row for each completion of data.corpus.max_documents" in found.source


def test_the_plan_says_what_it_leaves_out(make_job: Callable[..., Any]) -> None:
    job = make_job({**SEQUENCE, "generation": {}})
    assert list(phases(job)) == ["scoring", "training"]
    asked = Asked(read_models(job), None, read_accelerators(), RATES, rows=100)
    notes = [note for note in make_plan(job, asked).notes if note.startswith("generation: ")]
    assert len(notes) == 1
    assert "the time of writing is not reckoned" in notes[0]
    own = make_plan(make_job({}), asked)
    assert not [note for note in own.notes if note.startswith("generation: ")]
