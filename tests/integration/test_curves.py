"""ZeRO, ranks, micro-batches and blocks change how a step is computed, never what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .runs import RAY_WARNINGS, Distil, Ran, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]

STEPS = 20
SAME = {
    "train.max_steps": STEPS,
    # What is drawn follows the row, and a token's weight its place: not how rows are laid out.
    "soft_targets": {"codec": "sampled", "draws": 20},
    "loss.token_weights": {"position_ramp_tokens": 4, "teacher_confidence": 0.5},
    "train.optimizer": {"lr": 3e-3, "warmup_steps": 2},
    # Below what most steps have, so that clipping is a part of what must agree.
    "train.gradient_clipping": 0.2,
    "checkpoint": {"every_steps": None},
}
REFERENCE = {"student.zero_stage": 0, "train.micro_batch": 4}
WAY = {
    "student.zero_stage": 3,
    "student.num_workers": 2,
    "train.micro_batch": 1,
    "stream.steps_per_block": 3,
}
"""All that may differ at once."""
MORE_WAYS = {
    "zero1_two_ranks_micro_batch_1_coarse_blocks": {**WAY, "student.zero_stage": 1},
    "zero2_two_ranks_activation_checkpointing": {
        "student.zero_stage": 2,
        "student.num_workers": 2,
        "student.activation_checkpointing": True,
    },
    "zero2_one_rank_offloaded_optimizer": {
        "student.zero_stage": 2,
        "student.offload": "optimizer",
        "train.micro_batch": 1,
    },
}


@pytest.fixture
def reference(
    one_teacher: None, make_job: Callable[..., Any], distil: Distil, once: dict[str, Any]
) -> Ran:
    """One rank without ZeRO, all rows of a step in one forward pass."""
    if "reference" not in once:
        once["reference"] = distil(make_job({"name": "reference", **SAME, **REFERENCE}))
    return once["reference"]


def test_reference_learns(reference: Ran) -> None:
    assert_each_step_once(reference.root, STEPS, global_batch=4)
    assert reference.losses[-1] < 0.9 * reference.losses[0]


@pytest.mark.parametrize(
    "way",
    [
        pytest.param(WAY, id="zero3_two_ranks_micro_batch_1_coarse_blocks"),
        *(pytest.param(MORE_WAYS[name], id=name, marks=pytest.mark.soak) for name in MORE_WAYS),
    ],
)
def test_same_losses_in_every_way(
    way: dict[str, Any], reference: Ran, make_job: Callable[..., Any], distil: Distil
) -> None:
    other = distil(make_job({"name": "other", **SAME, **way}))
    assert_each_step_once(other.root, STEPS, global_batch=4)
    assert other.losses == pytest.approx(reference.losses, abs=1e-4)
    norms = [[step["grad_norm"] for step in ran.steps] for ran in (reference, other)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert [s["tokens"] for s in other.steps] == [s["tokens"] for s in reference.steps]
    # The export gathers the weights from all ranks: it must be the same student too.
    ours, theirs = (
        ran.report.evaluation["heldout"].models["student"] for ran in (reference, other)
    )
    assert theirs.kl_to_teacher == pytest.approx(ours.kl_to_teacher, abs=1e-3)
