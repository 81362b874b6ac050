"""The student's log probabilities and their one closed-form gradient."""

import math

import pytest
import torch

from raykd.losses import buckets
from raykd.losses.buckets import label_logprobs, student_buckets


def normal(num_tokens: int, vocab_size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(num_tokens, vocab_size, generator=generator, dtype=torch.float64)


def some_ids(num_tokens: int, vocab_size: int, k: int) -> torch.Tensor:
    return normal(num_tokens, vocab_size, 5).topk(k, dim=1).indices.int()


def by_autograd(
    logits_TV: torch.Tensor, ids_TK: torch.Tensor, labels_T: torch.Tensor, tau: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from a whole log_softmax, by torch's own gradients."""
    log_q_TV = (logits_TV / tau).log_softmax(-1)
    kept_TK = log_q_TV.gather(1, ids_TK.long())
    tail_T = log_q_TV.scatter(1, ids_TK.long(), -math.inf).logsumexp(1)
    whole = ids_TK.shape[1] == logits_TV.shape[1]
    log_q_TB = kept_TK if whole else torch.cat([kept_TK, tail_T[:, None]], 1)
    return log_q_TB, logits_TV.log_softmax(-1).gather(1, labels_T[:, None])[:, 0]


@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("k", [1, 4, 9])
def test_gradcheck_of_both_results(tau: float, k: int) -> None:
    def both(logits_TV: torch.Tensor) -> tuple[torch.Tensor, ...]:
        log_q_TB, logprobs_T = student_buckets(logits_TV, ids_TK, labels_T, tau)
        assert logprobs_T is not None
        return log_q_TB, logprobs_T

    logits_TV = normal(5, 9).requires_grad_()
    ids_TK, labels_T = some_ids(5, 9, k), torch.tensor([0, 3, 8, 3, 1])
    assert torch.autograd.gradcheck(both, (logits_TV,))
    assert torch.autograd.gradcheck(lambda x: label_logprobs(x, labels_T), (logits_TV,))


@pytest.mark.parametrize("tau", [1.0, 2.5])
@pytest.mark.parametrize("use", ["both", "buckets", "labels"])
@pytest.mark.parametrize("k", [3, 9])
def test_values_and_gradients_equal_log_softmax(
    tau: float, use: str, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "_BLOCK_ELEMENTS", {"cpu": 20})
    ids_TK, labels_T = some_ids(5, 9, k), torch.tensor([0, 3, 8, 3, 1])
    results, gradients = [], []
    for function in (student_buckets, by_autograd):
        logits_TV = normal(5, 9).requires_grad_()
        log_q_TB, logprobs_T = function(logits_TV, ids_TK, labels_T, tau)
        assert logprobs_T is not None
        weights_TB = torch.arange(1.0, 1.0 + log_q_TB.numel()).view_as(log_q_TB)
        loss = logits_TV.new_zeros(())
        if use != "labels":
            loss = loss + (weights_TB * log_q_TB).sum()
        if use != "buckets":
            loss = loss + (torch.arange(5.0) * logprobs_T).sum()
        loss.backward()
        results.append((log_q_TB.detach(), logprobs_T.detach()))
        gradients.append(logits_TV.grad)
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_come_back_in_the_dtype_of_the_logits(dtype: torch.dtype) -> None:
    logits_TV = normal(5, 30).to(dtype).requires_grad_()
    wide_TV = logits_TV.detach().double().requires_grad_()
    ids_TK, labels_T = some_ids(5, 30, 4), torch.tensor([0, 3, 8, 3, 29])
    for x_TV in (logits_TV, wide_TV):
        log_q_TB, logprobs_T = student_buckets(x_TV, ids_TK, labels_T, 2.0)
        assert logprobs_T is not None
        (log_q_TB.sum() + logprobs_T.sum()).backward()
    assert logits_TV.grad is not None
    assert wide_TV.grad is not None
    assert logits_TV.grad.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(
        logits_TV.grad.double(), wide_TV.grad, rtol=tolerance, atol=tolerance
    )


def test_logits_are_only_read() -> None:
    logits_TV = normal(5, 9).requires_grad_()
    log_q_TB, logprobs_T = student_buckets(logits_TV, some_ids(5, 9, 3), torch.zeros(5).int(), 2.0)
    assert logprobs_T is not None
    (log_q_TB.sum() + logprobs_T.sum()).backward()
    assert torch.equal(logits_TV, normal(5, 9))


def test_a_nan_in_the_logits_is_a_nan_in_the_loss() -> None:
    logits_TV = normal(2, 9)
    ids_TK = some_ids(2, 9, 3)
    for at in (int(ids_TK[0, 0]), next(v for v in range(9) if v not in ids_TK[0].tolist())):
        broken_TV = logits_TV.clone()
        broken_TV[0, at] = math.nan
        log_q_TB, _ = student_buckets(broken_TV, ids_TK, None, 1.0)
        assert log_q_TB[0].isnan().all()
        assert log_q_TB[1].isfinite().all()
