"""What a classifier minimises, against float64 arithmetic written out."""

from __future__ import annotations

import math

import pytest
import torch

from raykd.losses.labels import (
    LabelLossSpec,
    LabelTargets,
    label_loss,
    position_weights,
)

NAN = math.nan


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(
    outputs: torch.Tensor,
    targets: LabelTargets,
    spec: LabelLossSpec,
    hidden: torch.Tensor | None = None,
):
    weights = position_weights(targets, spec, len(outputs))
    return label_loss(outputs, hidden, targets, weights, spec)


def gold(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def softmax(values: list[float], tau: float) -> list[float]:
    powers = [math.exp(v / tau) for v in values]
    return [p / sum(powers) for p in powers]


def test_soft_and_hard_labels_of_one_of_many() -> None:
    student, teacher = numbers(3, 4), 3 * numbers(3, 4, seed=1)
    spec = LabelLossSpec("single_label", temperature=2.0, alpha=0.3)
    parts = loss(student, LabelTargets(teacher, None, gold(1, NAN, 3)), spec)
    wanted = 0.0
    for row, label in enumerate([1, None, 3]):
        p, q = softmax(teacher[row].tolist(), 2.0), softmax(student[row].tolist(), 2.0)
        soft = 4.0 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        if label is None:  # soft labels alone, in full
            wanted += soft
        else:
            hard = -math.log(softmax(student[row].tolist(), 1.0)[label])
            wanted += 0.7 * soft + 0.3 * hard
    assert parts.total.item() == pytest.approx(wanted, rel=1e-12)


def test_each_label_by_itself_where_there_may_be_several() -> None:
    student, teacher = numbers(2, 3), numbers(2, 3, seed=1)
    known = torch.tensor([[1.0, 0.0, 1.0], [NAN, NAN, NAN]])
    spec = LabelLossSpec("multi_label", temperature=3.0, alpha=0.25)
    parts = loss(student, LabelTargets(teacher, None, known), spec)

    def yes(x: float, tau: float) -> float:
        return 1 / (1 + math.exp(-x / tau))

    wanted = 0.0
    for row in range(2):
        soft = hard = 0.0
        for s, t, y in zip(student[row].tolist(), teacher[row].tolist(), [1, 0, 1], strict=True):
            p, q = yes(t, 3.0), yes(s, 3.0)
            soft += 9 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))) / 3
            hard += -(y * math.log(yes(s, 1)) + (1 - y) * math.log(1 - yes(s, 1))) / 3
        wanted += 0.75 * soft + 0.25 * hard if row == 0 else soft
    assert parts.total.item() == pytest.approx(wanted, rel=1e-12)


def test_numbers_and_vectors() -> None:
    student, teacher = numbers(2, 1), numbers(2, 1, seed=1)
    spec = LabelLossSpec("regression", alpha=0.5)
    parts = loss(student, LabelTargets(teacher, None, gold(2.0, NAN)), spec)
    (a, b), (c, d) = student[:, 0].tolist(), teacher[:, 0].tolist()
    assert parts.total.item() == pytest.approx(
        0.5 * (a - c) ** 2 + 0.5 * (a - 2) ** 2 + (b - d) ** 2
    )

    student, teacher = numbers(2, 5), numbers(2, 5, seed=1)
    ours = loss(student, LabelTargets(teacher, None, None), LabelLossSpec("embedding")).total
    dots = (student * teacher).sum(1) / (student.norm(dim=1) * teacher.norm(dim=1))
    assert ours.item() == pytest.approx((1 - dots).sum().item(), rel=1e-12)
    spec = LabelLossSpec("embedding", embedding_loss="mse")
    ours = loss(student, LabelTargets(teacher, None, None), spec).total
    assert ours.item() == pytest.approx(((student - teacher) ** 2).mean(1).sum().item())


def test_the_cosine_of_hidden_states_is_added() -> None:
    student, teacher = numbers(2, 3), numbers(2, 3, seed=1)
    ours, theirs = numbers(2, 6, seed=2), numbers(2, 6, seed=3)
    plain = loss(student, LabelTargets(teacher, None, None), LabelLossSpec("single_label"))
    spec = LabelLossSpec("single_label", cosine=2.0)
    more = loss(student, LabelTargets(teacher, theirs, None), spec, ours)
    cosines = (ours * theirs).sum(1) / (ours.norm(dim=1) * theirs.norm(dim=1))
    wanted = plain.total + 2.0 * (1 - cosines).sum()
    assert more.total.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_a_wrong_teacher_is_dropped_or_overruled() -> None:
    student, teacher = numbers(3, 2), torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).double()
    known = gold(0, 1, NAN)  # right, wrong, unknown
    right = slice(0, 1), slice(2, 3)
    spec = LabelLossSpec("single_label", alpha=0.5)
    alone = sum(
        loss(student[s], LabelTargets(teacher[s], None, known[s]), spec).total.item() for s in right
    )
    drop = LabelLossSpec("single_label", alpha=0.5, when_teacher_is_wrong="drop")
    targets = LabelTargets(teacher, None, known)
    assert loss(student, targets, drop).total.item() == pytest.approx(alone)
    assert position_weights(targets, drop, 3).learned.tolist() == [1.0, 0.0, 1.0]
    over = LabelLossSpec("single_label", alpha=0.0, when_teacher_is_wrong="hard_label")
    alone = sum(
        loss(
            student[s], LabelTargets(teacher[s], None, None), LabelLossSpec("single_label")
        ).total.item()
        for s in right
    )
    wanted = alone - student[1].log_softmax(0)[1].item()
    assert loss(student, targets, over).total.item() == pytest.approx(wanted)


def test_labels_alone_leave_out_what_has_none() -> None:
    spec = LabelLossSpec("single_label", alpha=1.0)
    targets = LabelTargets(None, None, gold(NAN, 1))
    assert position_weights(targets, spec, 2).learned.tolist() == [0.0, 1.0]
    student = numbers(2, 3).requires_grad_()
    parts = loss(student, targets, spec)
    assert parts.divergence is None
    assert parts.total.item() == pytest.approx(-student[1].log_softmax(0)[1].item())
    parts.total.backward()
    assert student.grad is not None
    assert student.grad[0].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression", "embedding"])
def test_nothing_to_learn_where_the_student_says_the_same(task: str) -> None:
    outputs = numbers(4, 1 if task == "regression" else 3)
    targets = LabelTargets(outputs.clone(), None, None)
    total = loss(outputs, targets, LabelLossSpec(task)).total
    assert total.item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("task", ["tokens", "multi_label", "regression", "embedding"])
def test_gradients(task: str) -> None:
    width = 1 if task == "regression" else 3
    known = torch.tensor(
        [
            [1.0] * (width if task == "multi_label" else 1),
            [NAN] * 1 * (width if task == "multi_label" else 1),
        ]
    )
    alpha = 0.0 if task == "embedding" else 0.4
    spec = LabelLossSpec(task, alpha=alpha, cosine=0.0 if task == "embedding" else 0.5)
    targets = LabelTargets(numbers(2, width, seed=1), numbers(2, 4, seed=2), known)
    student, hidden = numbers(2, width).requires_grad_(), numbers(2, 4, seed=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, h: loss(s, targets, spec, h).total, (student, hidden))


def test_no_position_gives_a_sum_that_backward_runs_through() -> None:
    student = torch.zeros(0, 3, requires_grad=True)
    parts = loss(student, LabelTargets(torch.zeros(0, 3), None, None), LabelLossSpec("tokens"))
    parts.total.backward()
    assert parts.total.item() == 0.0
