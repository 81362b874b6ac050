"""What a loss may be, and what is refused."""

import math
from typing import Any

import pytest

from raykd.losses.spec import DIVERGENCES, LossSpec

FORWARD = (("forward_kl", 1.0),)


def test_every_divergence_may_be_asked_for_at_once() -> None:
    spec = LossSpec(tuple((name, 0.5) for name in DIVERGENCES), temperature=3.0, alpha=0.5)
    assert spec.names == DIVERGENCES


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("skew", [0.0, 0.99])
def test_ends_of_ranges_are_allowed(alpha: float, skew: float) -> None:
    spec = LossSpec(FORWARD, alpha=alpha, skew=skew)
    assert (spec.alpha, spec.skew) == (alpha, skew)


def test_plain_fine_tuning_names_no_divergence() -> None:
    assert LossSpec((), alpha=1.0).names == ()
    with pytest.raises(ValueError, match=r"divergences: empty .* alpha is 0\.9"):
        LossSpec((), alpha=0.9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"divergences": (("kl", 1.0),)}, "one of forward_kl, .*total_variation; found 'kl'"),
        ({"divergences": (("jsd", 0.0),)}, "weight of jsd must be above 0; found 0"),
        ({"divergences": (("jsd", math.inf),)}, "weight of jsd must be above 0; found inf"),
        ({"divergences": (("jsd", math.nan),)}, "weight of jsd must be above 0; found nan"),
        ({"divergences": FORWARD * 2}, "named once; found forward_kl, forward_kl"),
        ({"temperature": 0.0}, "temperature must be above 0; found 0"),
        ({"temperature": -1.0}, "temperature must be above 0; found -1"),
        ({"temperature": math.nan}, "temperature must be above 0; found nan"),
        ({"temperature": math.inf}, "temperature must be above 0; found inf"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\]; found 1.5"),
        ({"alpha": -0.1}, r"alpha must lie in \[0, 1\]; found -0.1"),
        ({"alpha": math.nan}, r"alpha must lie in \[0, 1\]; found nan"),
        ({"beta": 0.0}, r"beta must lie in \(0, 1\); found 0"),
        ({"beta": 1.0}, r"beta must lie in \(0, 1\); found 1"),
        ({"skew": 1.0}, r"skew must lie in \[0, 1\); found 1"),
        ({"skew": -0.1}, r"skew must lie in \[0, 1\); found -0.1"),
        ({"head_mass": 0.0}, r"head_mass must lie in \(0, 1\); found 0"),
        ({"head_mass": 1.0}, r"head_mass must lie in \(0, 1\); found 1"),
    ],
)
def test_refusals_name_field_value_and_what_is_allowed(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        LossSpec(**{"divergences": FORWARD, **fields})
