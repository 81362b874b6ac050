"""A step's line: what is written is what is read; what is no line is refused."""

from __future__ import annotations

import json
import math
import re

import pytest
from step_cases import STEP, step

from raykd.errors import DivergenceError
from raykd.telemetry.metrics import HeldoutMetrics, InnerMetrics, StepMetrics


class TestStepMetrics:
    def test_round_trip(self) -> None:
        heldout = HeldoutMetrics(kl=0.4, top1_agreement=0.6, perplexity=21.0)
        inner = InnerMetrics(hidden=0.3, attention=None)
        for metrics in (
            STEP,
            step(2, divergence=None),
            step(3, heldout=heldout),
            step(4, inner=inner),
        ):
            assert StepMetrics.from_json(metrics.to_json()) == metrics

    def test_line_has_the_documented_keys(self) -> None:
        tree = json.loads(STEP.to_json())
        assert ",".join(tree) == (
            "step,epoch,row_start,row_end,tokens,tokens_seen,loss,divergence,cross_entropy,lr,"
            "grad_norm,seconds,wait_s,teacher_s,time"
        )
        assert "heldout" in json.loads(
            step(1, heldout=HeldoutMetrics(kl=0, top1_agreement=1, perplexity=1)).to_json()
        )

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_not_finite_is_never_written(self, value: float) -> None:
        with pytest.raises(DivergenceError, match=r"step 1 \(rows 0 to 3\): loss is not"):
            step(1, loss=value).to_json()

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"step": 1.5}, "step is an integer; found 1.5"),
            ({"step": True}, "step is an integer"),
            ({"loss": "2"}, "loss is a number; found '2'"),
            ({"loss": None}, "loss is a number; found None"),
            ({"loss": math.nan}, "NaN is not a number"),
            ({"lost": 1}, "unknown: ['lost']"),
            ({"heldout": {"kl": 1.0}}, "missing: ['perplexity', 'top1_agreement']"),
            ({"heldout": 3}, "heldout is an object"),
            ({"inner": {"hidden": 1.0}}, "missing: ['attention']"),
            ({"inner": []}, "inner is an object"),
        ],
    )
    def test_strict(self, changed: dict[str, object], said: str) -> None:
        line = json.dumps({**json.loads(STEP.to_json()), **changed})
        with pytest.raises(ValueError, match=re.escape(said)):
            StepMetrics.from_json(line)
