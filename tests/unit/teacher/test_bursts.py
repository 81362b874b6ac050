"""A simulation: what Serve's own policy makes of bursts, under the settings that raykd gives it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from ray.serve import autoscaling_policy
from ray.serve.config import AutoscalingContext

from raykd.config.teacher import TeacherConfig
from raykd.teacher.service import LOOK_BACK_S, TeacherService, Window

MOST = 4
FULL = 10
"""Requests in flight that a window holds for so many replicas."""
REPORT_S = 10
"""How often a loader tells Serve what it has in flight."""
DOWN_S = 120
"""`downscale_delay_s` by default."""


NOT_LOOKED_AT: tuple[Any, ...] = (
    "deployment_id",
    "deployment_name",
    "app_name",
    "total_queued_requests",
    "aggregated_metrics",
    "raw_metrics",
    "last_scale_up_time",
    "last_scale_down_time",
    "current_time",
)
"""What the policy is told besides."""


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Replicas second by second, for a demand: second to requests in flight."""

    def run(demand: Callable[[int], float], seconds: int) -> list[int]:
        settings = TeacherConfig(model="m", replicas={"min": 1, "max": MOST})
        nothing: Any = None
        service = TeacherService("app", settings, nothing, Window(FULL, 1.25))
        config = service._scale()["autoscaling_config"]
        decide = autoscaling_policy._apply_autoscaling_config(
            autoscaling_policy.default_autoscaling_policy
        )
        replicas, state, known, history = config.initial_replicas, {}, 0.0, []
        for now in range(seconds):
            monkeypatch.setattr(autoscaling_policy.time, "time", lambda now=now: float(now))
            if now % REPORT_S == 0:
                past = range(max(0, now - int(LOOK_BACK_S)), now + 1)
                known = sum(map(demand, past)) / len(past)
            wanted, state = decide(
                AutoscalingContext(
                    **dict.fromkeys(NOT_LOOKED_AT),
                    current_num_replicas=replicas,
                    target_num_replicas=replicas,
                    running_replicas=[],
                    total_num_requests=known,
                    capacity_adjusted_min_replicas=config.min_replicas,
                    capacity_adjusted_max_replicas=config.max_replicas,
                    policy_state=state,
                    config=config,
                )
            )
            replicas = min(max(wanted, config.min_replicas), config.max_replicas)
            history.append(replicas)
        return history

    return run


def changes(history: list[int]) -> list[tuple[int, int]]:
    """From what to what."""
    return [(a, b) for a, b in itertools.pairwise(history) if a != b]


@pytest.mark.parametrize(("busy_s", "idle_s"), [(30, 20), (30, 60), (30, 90), (20, 100)])
def test_bursts_closer_than_the_delay_never_take_a_replica_away(
    busy_s: int, idle_s: int, simulate: Callable[..., list[int]]
) -> None:
    history = simulate(lambda now: FULL * (now % (busy_s + idle_s) < busy_s), 3600)
    assert all(after > before for before, after in changes(history))
    assert history[-1] >= 3


def test_demand_that_jitters_about_two_replicas_holds_them(
    simulate: Callable[..., list[int]],
) -> None:
    history = simulate(lambda now: 2.5 + (1.0 if now % 7 < 3 else -0.75), 3600)
    assert set(history[60:]) <= {2, 3}
    assert len(changes(history)) <= 3600 / DOWN_S


def test_the_number_goes_round_no_faster_than_the_delay(
    simulate: Callable[..., list[int]],
) -> None:
    """Bursts farther apart: each takes replicas away once, and brings them back once."""
    period_s = 2 * DOWN_S
    history = simulate(lambda now: FULL * (now % period_s < 30), 10 * period_s)
    downs = [change for change in changes(history) if change[1] < change[0]]
    assert 5 <= len(downs) <= 10


def test_idleness_takes_all_but_the_fewest(simulate: Callable[..., list[int]]) -> None:
    history = simulate(lambda now: FULL * (now < 60), 600)
    assert max(history) == MOST
    gone = next(at for at, count in enumerate(history) if at > 60 and count < MOST)
    assert DOWN_S <= gone - 60 <= DOWN_S + LOOK_BACK_S + 2 * REPORT_S
    assert history[-1] == 1
