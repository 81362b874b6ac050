"""Bounds of the tail at a temperature that was not kept, against the truth in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.soft_targets.retemper import retempered_tail


def split(logprobs_TV: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kept ones, likeliest first, and those left out."""
    ordered_TV = logprobs_TV.sort(1, descending=True).values
    return ordered_TV[:, :k], ordered_TV[:, k:]


def log_tail(left_TL: torch.Tensor, temperatures: tuple[float, ...]) -> torch.Tensor:
    return torch.stack([(left_TL / tau).logsumexp(1) for tau in temperatures], 1)


LOGIT = st.one_of(st.sampled_from([-math.inf, 0.0, 1.0]), st.floats(-30, 30, width=32))
TEMPERATURES = st.sampled_from([(1.0,), (1.0, 2.0), (1.0, 0.5, 4.0), (1.0, 1.0)])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_truth_lies_between(data: st.DataObject) -> None:
    vocab_size = data.draw(st.integers(1, 9))
    k = data.draw(st.integers(1, vocab_size))
    row = st.lists(LOGIT, min_size=vocab_size, max_size=vocab_size).filter(
        lambda logits: max(logits) > -math.inf
    )
    logits_TV = torch.tensor(data.draw(st.lists(row, min_size=1, max_size=3)), dtype=torch.float64)
    temperatures = data.draw(TEMPERATURES)
    tau = data.draw(st.sampled_from([0.3, 0.7, 1.0, 1.5, 3.0, 10.0, 1000.0]))
    kept_TK, left_TL = split(logits_TV.log_softmax(1), k)
    low_T, high_T = retempered_tail(
        log_tail(left_TL, temperatures), temperatures, kept_TK, vocab_size, tau
    )
    truth_T = log_tail(left_TL, (tau,))[:, 0]
    slack_T = 1e-9 * (1 + truth_T.abs().nan_to_num(posinf=0, neginf=0))
    assert bool((low_T <= truth_T + slack_T).all())
    assert bool((truth_T <= high_T + slack_T).all())
    assert not bool(low_T.isnan().any() | high_T.isnan().any())


def test_float32_tails_and_a_language_models_shape_bound_well() -> None:
    """Between kept temperatures the truth is known to a few hundredths of a nat."""
    generator = torch.Generator().manual_seed(0)
    logits_TV = (3 * torch.randn(20, 5000, generator=generator)).double()
    kept_TK, left_TL = split(logits_TV.log_softmax(1), 64)
    tails_TN = log_tail(left_TL, (1.0, 2.0)).float()
    truth_T = log_tail(left_TL, (1.5,))[:, 0]
    low_T, high_T = retempered_tail(tails_TN, (1.0, 2.0), kept_TK.float(), 5000, 1.5)
    assert bool((low_T <= truth_T + 1e-5).all())
    assert bool((truth_T <= high_T + 1e-5).all())
    wide_T = (lambda low, high: high - low)(
        *retempered_tail(tails_TN[:, :1], (1.0,), kept_TK.float(), 5000, 1.5)
    )
    assert bool((high_T - low_T < wide_T).all())


def test_a_kept_temperature_is_exact() -> None:
    tails_TN = torch.tensor([[-3.0, -1.0]])
    low_T, high_T = retempered_tail(tails_TN, (1.0, 2.0), torch.tensor([[-0.1]]), 5, 2.0)
    assert low_T.tolist() == high_T.tolist() == [-1.0]


def test_tails_all_alike_are_known_from_one_temperature() -> None:
    """Six ids as likely as the least kept one: log 6 + s x at every s."""
    x = -2.5
    for tau in (0.5, 2.0, 30.0):
        low_T, high_T = retempered_tail(
            torch.tensor([[math.log(6) + x]], dtype=torch.float64),
            (1.0,),
            torch.tensor([[-0.2, x]], dtype=torch.float64),
            8,
            tau,
        )
        assert float(low_T) == pytest.approx(math.log(6) + x / tau, abs=1e-12)
        assert float(high_T) == pytest.approx(math.log(6) + x / tau, abs=1e-12)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_must_be_one(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be finite and above 0"):
        retempered_tail(torch.zeros(1, 1), (1.0,), torch.zeros(1, 1), 3, temperature)
