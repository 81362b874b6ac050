"""The mixture: weights, temperature^2 once, sums, and what a weight of 0 leaves out."""

import math

import pytest
import torch

from raykd.losses.buckets import BucketTargets
from raykd.losses.mix import LossParts, distillation_loss

T, V = 6, 50
LABELS_T = torch.tensor([0, 7, 49, 7, 3, 12])


def normal(seed: int, scale: float = 2.0, num_tokens: int = T) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_tokens, V, generator=generator, dtype=torch.float64)


def targets_of(teacher_TV: torch.Tensor, k: int, tau: float) -> BucketTargets:
    logprobs_TV = teacher_TV.log_softmax(-1)
    kept = logprobs_TV.topk(k, dim=1)
    rest_TV = (logprobs_TV / tau).scatter(1, kept.indices, -math.inf)
    return BucketTargets(kept.indices, kept.values, rest_TV.logsumexp(1))


def loss(
    logits_TV: torch.Tensor,
    targets: BucketTargets | None,
    *,
    labels_T: torch.Tensor = LABELS_T,
    divergence: str = "forward_kl",
    tau: float = 1.0,
    alpha: float = 0.0,
) -> LossParts:
    return distillation_loss(
        logits_TV, labels_T, targets, divergence=divergence, temperature=tau, beta=0.5, alpha=alpha
    )


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_equals_torch_where_everything_is_kept(tau: float, alpha: float) -> None:
    logits_TV, teacher_TV = normal(0).requires_grad_(), normal(1)
    parts = loss(logits_TV, targets_of(teacher_TV, V, tau), tau=tau, alpha=alpha)
    parts.total.backward()

    again_TV = normal(0).requires_grad_()
    kl = torch.nn.functional.kl_div(
        (again_TV / tau).log_softmax(-1), (teacher_TV / tau).softmax(-1), reduction="sum"
    )
    cross_entropy = torch.nn.functional.cross_entropy(again_TV, LABELS_T, reduction="sum")
    total = (1 - alpha) * tau**2 * kl + alpha * cross_entropy
    total.backward()
    torch.testing.assert_close(parts.total, total)
    torch.testing.assert_close(parts.divergence, (tau**2 * kl).detach())
    torch.testing.assert_close(parts.cross_entropy, cross_entropy.detach())
    torch.testing.assert_close(logits_TV.grad, again_TV.grad)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_gradcheck(divergence: str, tau: float) -> None:
    logits_TV, targets = normal(0).requires_grad_(), targets_of(normal(1), 5, tau)
    assert torch.autograd.gradcheck(
        lambda x: loss(x, targets, divergence=divergence, tau=tau, alpha=0.3).total, (logits_TV,)
    )


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_the_gradient_keeps_its_size_as_the_temperature_rises(divergence: str) -> None:
    norms = []
    for tau in (2.0, 8.0):
        logits_TV = normal(0, scale=1.0).requires_grad_()
        parts = loss(
            logits_TV, targets_of(normal(1, scale=1.0), 10, tau), divergence=divergence, tau=tau
        )
        parts.total.backward()
        assert logits_TV.grad is not None
        norms.append(float(logits_TV.grad.norm()))
    assert 1 / 1.7 < norms[1] / norms[0] < 1.7  # without the factor: about 1 / 16


def test_plain_fine_tuning_needs_no_targets() -> None:
    logits_TV, again_TV = normal(0).requires_grad_(), normal(0).requires_grad_()
    parts = loss(logits_TV, None, alpha=1.0)
    parts.total.backward()
    torch.nn.functional.cross_entropy(again_TV, LABELS_T, reduction="sum").backward()
    assert parts.divergence is None
    torch.testing.assert_close(logits_TV.grad, again_TV.grad)
    with pytest.raises(ValueError, match=r"alpha is 0\.5: below 1 .* targets"):
        loss(logits_TV, None, alpha=0.5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_part_of_weight_zero_cannot_hurt(alpha: float) -> None:
    logits_TV = normal(0)
    logits_TV[0, int(LABELS_T[0])] = -math.inf  # cross-entropy +inf
    targets = targets_of(normal(1), V, 1.0)
    if alpha == 1.0:  # now the divergence +inf, cross-entropy finite
        logits_TV = normal(0)
        logits_TV[0, 5] = -math.inf
    else:
        targets.logprobs_TK[0, targets.ids_TK[0] == LABELS_T[0]] = -math.inf
    logits_TV.requires_grad_()
    parts = loss(logits_TV, targets, alpha=alpha)
    parts.total.backward()
    assert parts.total.isfinite()
    assert logits_TV.grad is not None
    assert logits_TV.grad.isfinite().all()
    other = parts.cross_entropy if alpha == 0.0 else parts.divergence
    assert other is not None
    assert other.isinf()


def test_parts_are_numbers_to_read() -> None:
    parts = loss(normal(0).requires_grad_(), targets_of(normal(1), 5, 1.0), alpha=0.5)
    assert parts.total.requires_grad
    assert parts.divergence is not None
    assert not parts.divergence.requires_grad
    assert not parts.cross_entropy.requires_grad


def test_sums_of_parts_are_the_sum_of_the_whole() -> None:
    targets = targets_of(normal(1), 5, 2.0)
    whole = loss(normal(0), targets, tau=2.0, alpha=0.5)
    halves = [
        loss(
            normal(0)[rows],
            BucketTargets(
                targets.ids_TK[rows], targets.logprobs_TK[rows], targets.log_tail_T[rows]
            ),
            labels_T=LABELS_T[rows],
            tau=2.0,
            alpha=0.5,
        )
        for rows in (slice(0, 2), slice(2, T))
    ]
    torch.testing.assert_close(halves[0].total + halves[1].total, whole.total)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("k", [5, V])
def test_no_token_gives_zeros_with_a_graph(alpha: float, k: int) -> None:
    logits_TV = normal(0, num_tokens=0).requires_grad_()
    parts = loss(
        logits_TV, targets_of(normal(1)[:0], k, 2.0), labels_T=LABELS_T[:0], tau=2.0, alpha=alpha
    )
    parts.total.backward()
    assert float(parts.total.detach()) == 0.0
    assert float(parts.cross_entropy) == 0.0
    assert logits_TV.grad is not None
    assert logits_TV.grad.shape == (0, V)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"divergence": "kl"}, "one of forward_kl, reverse_kl, jsd; found 'kl'"),
        ({"tau": 0.0}, "temperature must be above 0; found 0"),
        ({"tau": math.nan}, "temperature must be above 0"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\]; found 1.5"),
        ({"labels_T": LABELS_T[:3]}, "labels_T holds 3 tokens, the logits 6"),
    ],
)
def test_wrong_settings_are_named(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss(normal(0), targets_of(normal(1), 5, 1.0), **setting)  # type: ignore[arg-type]


def test_targets_of_another_shape_are_named() -> None:
    targets = targets_of(normal(1), 5, 1.0)
    with pytest.raises(ValueError, match="ids_TK holds 6 tokens, the logits 3"):
        loss(normal(0)[:3], targets, labels_T=LABELS_T[:3])
    with pytest.raises(ValueError, match=r"5 ids a token are kept, but .* has 4"):
        loss(normal(0)[:, :4], targets)
