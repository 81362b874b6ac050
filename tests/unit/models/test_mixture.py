"""The average of several models' distributions, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raykd.models.mixture import mixture_logprobs

T, V = 7, 23


def logits_of(num_models: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(3)
    return [(4 * torch.randn(T, V, generator=draw)).to(dtype) for _ in range(num_models)]


@pytest.mark.parametrize("weights", [[1.0], [0.25, 0.75], [0.5, 0.2, 0.3]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_the_weighted_mean_of_probabilities(weights: list[float], dtype: torch.dtype) -> None:
    given = logits_of(len(weights), dtype)
    mean = np.zeros((T, V))
    for logits, weight in zip(given, weights, strict=True):
        exps = np.exp(logits.double().numpy())
        mean += weight * exps / exps.sum(-1, keepdims=True)
    found = mixture_logprobs(given, weights)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().exp().numpy(), mean, rtol=2e-6)


def test_a_model_with_itself_is_itself() -> None:
    (logits,) = logits_of(1)
    found = mixture_logprobs([logits, logits, logits], [0.2, 0.5, 0.3])
    torch.testing.assert_close(found, logits.log_softmax(-1), rtol=1e-6, atol=1e-6)


def test_what_one_rules_out_the_other_may_say() -> None:
    first, second = logits_of(2)
    first[:, 4] = -torch.inf
    found = mixture_logprobs([first, second], [0.9, 0.1]).exp()
    torch.testing.assert_close(found[:, 4], 0.1 * second.softmax(-1)[:, 4])


def test_the_models_own_logits_stay_as_they_are() -> None:
    given = logits_of(2)
    before = [each.clone() for each in given]
    mixture_logprobs(given, [0.5, 0.5])
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))
