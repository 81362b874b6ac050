"""Distances between inner states: float64 references, gradients, laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from raykd.losses import representations
from raykd.losses.representations import cosine_distance, mean_square, relation_divergence

LENGTHS = [4, 1, 5]
POSITIONS = sum(LENGTHS)


def states(width: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(POSITIONS, width, generator=draw, dtype=torch.float64).to(dtype)


def relation_reference(
    student: torch.Tensor, teacher: torch.Tensor, heads: int, causal: bool
) -> torch.Tensor:
    """Position by position, pair by pair, from the definition."""
    total = torch.zeros((), dtype=torch.float64)
    first = 0
    for length in LENGTHS:
        for head in range(heads):
            for i in range(length):
                seen = range(i + 1 if causal else length)
                told = []
                for side in (student, teacher):
                    width = side.shape[1] // heads
                    part = side[first : first + length, head * width : (head + 1) * width].double()
                    scores = torch.stack([part[i] @ part[j] / math.sqrt(width) for j in seen])
                    told.append(torch.softmax(scores, 0))
                q, p = told
                total = total + (p * (p / q).log()).sum() / heads
        first += length
    return total


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("block", [2**20, 8])
def test_relations_are_those_of_the_definition(
    causal: bool, heads: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(representations._BLOCK_ELEMENTS, "cpu", block)
    student, teacher = states(6, 1).requires_grad_(), states(12, 2)
    twin = student.detach().clone().requires_grad_()
    found = relation_divergence(student, teacher, LENGTHS, heads, causal=causal)
    expected = relation_reference(twin, teacher, heads, causal)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    (3.0 * found).backward()
    (3.0 * expected).backward()
    torch.testing.assert_close(student.grad, twin.grad)


def test_relations_of_narrow_states_are_worked_out_in_float32() -> None:
    student, teacher = states(8, 1, torch.bfloat16).requires_grad_(), states(8, 2, torch.bfloat16)
    found = relation_divergence(student, teacher, LENGTHS, 2, causal=True)
    expected = relation_reference(student.detach(), teacher, 2, causal=True)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    found.backward()
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "distance",
    [
        lambda s, t: cosine_distance(s, t),
        lambda s, t: mean_square(s, t),
        lambda s, t: relation_divergence(s, t, LENGTHS, 2, causal=True),
        lambda s, t: relation_divergence(s, t, LENGTHS, 2, causal=False),
    ],
    ids=["cosine", "mse", "causal relations", "relations"],
)
def test_gradients_and_equal_states(
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    teacher = states(4, 5)
    assert torch.autograd.gradcheck(
        lambda s: distance(s, teacher), (states(4, 4).requires_grad_(),)
    )
    same = teacher.clone().requires_grad_()
    nothing = distance(same, teacher)
    assert nothing.item() == pytest.approx(0.0, abs=1e-12)
    nothing.backward()
    assert same.grad is not None
    assert same.grad.abs().max() < 1e-12


def test_cosine_is_of_directions_alone() -> None:
    student, teacher = states(6, 1), states(6, 2)
    expected = sum(
        1.0 - (s @ t / (s.norm() * t.norm())).item() for s, t in zip(student, teacher, strict=True)
    )
    assert cosine_distance(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    stretched = cosine_distance(7.0 * student, 0.1 * teacher)
    assert stretched.item() == pytest.approx(expected, rel=1e-9)
    assert cosine_distance(student, -student).item() == pytest.approx(2.0 * POSITIONS)


def test_mean_square_is_torchs_own() -> None:
    student, teacher = states(6, 1), states(6, 2)
    expected = POSITIONS * torch.nn.functional.mse_loss(student, teacher).item()
    assert mean_square(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_nothing_crosses_documents_or_looks_ahead() -> None:
    student, teacher = states(4, 1).requires_grad_(), states(4, 2)
    alone = relation_divergence(student[4:], teacher[4:], LENGTHS[1:], 2, causal=True)
    both = relation_divergence(student, teacher, LENGTHS, 2, causal=True)
    first = relation_divergence(student[:4], teacher[:4], LENGTHS[:1], 2, causal=True)
    assert both.item() == pytest.approx((alone + first).item(), rel=1e-12)
    # A document of one token relates to itself alone: nothing can differ.
    one = relation_divergence(student[4:5], teacher[4:5], [1], 2, causal=True)
    assert one.item() == 0.0
    prefix = relation_divergence(student[:3], teacher[:3], [3], 2, causal=True)
    last = first - prefix
    (gradient,) = torch.autograd.grad(last, student)
    assert prefix.item() < first.item()
    assert gradient[4:].abs().max() == 0


def test_no_position_gives_nothing() -> None:
    empty = torch.zeros(0, 4, requires_grad=True)
    for total in (
        cosine_distance(empty, torch.zeros(0, 4)),
        mean_square(empty, torch.zeros(0, 4)),
        relation_divergence(empty, torch.zeros(0, 8), [], 2, causal=True),
    ):
        assert total.item() == 0.0
        total.backward()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"student \(10, 4\), teacher \(10, 6\); project"):
        cosine_distance(states(4, 1), states(6, 1))
    with pytest.raises(ValueError, match="3 heads do not divide the teacher's 4"):
        relation_divergence(states(6, 1), states(4, 1), LENGTHS, 3, causal=True)
    with pytest.raises(ValueError, match="student 10, teacher 10, documents 9"):
        relation_divergence(states(6, 1), states(4, 1), [4, 5], 2, causal=True)
