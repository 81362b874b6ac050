"""What autograd gets from the fused loss: which gradients, in which buffers, how often."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_reference import every_kind, normal, reference_logits, reference_loss
from torch.utils._python_dispatch import TorchDispatchMode

from raykd.losses import fused as fused_module
from raykd.losses import head
from raykd.losses.fused import LossParts, linear_distillation_loss
from raykd.losses.head import chunk_size_tokens
from raykd.losses.spec import LossSpec
from raykd.losses.targets import LogitShape, Targets

T, V, D = 9, 20, 4
LABELS_T = torch.arange(T)
SPEC = LossSpec((("forward_kl", 1.0),), temperature=2.0, alpha=0.3)
TARGETS = every_kind(T, V, 2.0)["top_k"]


def loss(
    hidden_TD: torch.Tensor,
    weight_VD: torch.Tensor,
    bias_V: torch.Tensor | None = None,
    *,
    targets: Targets | None = TARGETS,
    spec: LossSpec = SPEC,
    chunk_tokens: int | None = 4,
) -> LossParts:
    return linear_distillation_loss(
        hidden_TD,
        weight_VD,
        bias_V,
        LABELS_T,
        targets,
        spec,
        shape=LogitShape(),
        vocab_size=V,
        chunk_tokens=chunk_tokens,
    )


def plain(
    hidden_TD: torch.Tensor, weight_VD: torch.Tensor, bias_V: torch.Tensor | None = None
) -> torch.Tensor:
    logits_TV = reference_logits(hidden_TD, weight_VD, bias_V, LogitShape(), V)
    return reference_loss(logits_TV, LABELS_T, TARGETS, SPEC)[0]


def tensors(rows: int = V) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return (
        normal(T, D, seed=1).requires_grad_(),
        normal(rows, D, seed=2).requires_grad_(),
        normal(rows, seed=3).requires_grad_(),
    )


def test_a_tied_weight_gets_both_gradients() -> None:
    ids_T = torch.tensor([3, 1, 1, 19, 0, 7, 2, 2, 5])
    found, expected = (
        torch.nn.Parameter(normal(V, D, seed=2)),
        torch.nn.Parameter(normal(V, D, seed=2)),
    )
    loss(torch.nn.functional.embedding(ids_T, found).tanh(), found).total.backward()
    plain(torch.nn.functional.embedding(ids_T, expected).tanh(), expected).backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_gradients_add_up_over_micro_batches_and_take_the_incoming_scalar() -> None:
    found, expected = tensors(), tensors()
    for _ in range(2):
        (loss(*found).total / 7).backward()
        (plain(*expected) / 7).backward()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


def test_gradients_flow_on_to_what_the_weight_is_made_of() -> None:
    """As with LoRA on the head: the weight itself is no leaf."""
    hidden_TD, base_VD, _ = tensors()
    factors = []
    for function in (lambda w: loss(hidden_TD, w).total, lambda w: plain(hidden_TD, w)):
        low_VR, low_RD = normal(V, 2, seed=5), normal(2, D, seed=6)
        low_VR.requires_grad_()
        low_RD.requires_grad_()
        weight_VD = base_VD.detach() + low_VR @ low_RD
        factors.append(torch.autograd.grad(function(weight_VD), (low_VR, low_RD)))
    torch.testing.assert_close(factors[0], factors[1])


@pytest.mark.parametrize("learning", [0, 1, 2])
def test_only_gradients_asked_for_are_made(learning: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learns = tuple(i == learning for i in range(3))
    made: list[head.HeadGradients] = []

    class Noting(head.HeadGradients):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(fused_module, "HeadGradients", Noting)
    given = [x.detach().requires_grad_(learn) for x, learn in zip(tensors(), learns, strict=True)]
    again = [x.detach().requires_grad_(learn) for x, learn in zip(tensors(), learns, strict=True)]
    loss(*given).total.backward()
    plain(*again).backward()
    buffers = (made[0].hidden_TD, made[0].weight_PD, made[0].bias_P)
    assert tuple(buffer is not None for buffer in buffers) == learns
    for x, y in zip(given, again, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("how", ["no_grad", "frozen"])
def test_no_gradient_is_made_where_none_can_be_used(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("gradients were made")

    monkeypatch.setattr(fused_module, "HeadGradients", refuse)
    given = tensors()
    with torch.set_grad_enabled(how == "frozen"):
        parts = loss(*(x.detach() if how == "frozen" else x for x in given))
    assert not parts.total.requires_grad
    torch.testing.assert_close(parts.total, plain(*given).detach())


def test_a_second_backward_says_what_to_do() -> None:
    given = tensors()
    total = loss(*given).total
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match=r"second time .* call the loss again"):
        total.backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_buffer_itself_becomes_the_gradient(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    places: list[int] = []
    hand_out = head.HeadGradients.hand_out

    def noting(self: head.HeadGradients) -> Any:
        assert self.weight_PD is not None
        places.append(self.weight_PD.data_ptr())
        return hand_out(self)

    monkeypatch.setattr(head.HeadGradients, "hand_out", noting)
    weight_VD = normal(V + 5, D, seed=2).to(dtype).requires_grad_()
    loss(normal(T, D, seed=1).to(dtype).requires_grad_(), weight_VD).total.backward()
    assert weight_VD.grad is not None
    assert weight_VD.grad.data_ptr() == places[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["top_k", "hidden"])
def test_nothing_of_fresh_memory_shows(dtype: torch.dtype, kind: str) -> None:
    """Under deterministic algorithms torch fills new memory with NaN."""
    given = [x.detach().to(dtype).requires_grad_() for x in tensors(rows=V + 5)]
    torch.use_deterministic_algorithms(True)
    try:
        loss(*given, targets=every_kind(T, V, 2.0)[kind]).total.backward()
    finally:
        torch.use_deterministic_algorithms(False)
    for x in given:
        assert x.grad is not None
        assert bool(x.grad.isfinite().all())
    assert not bool(given[1].grad[V:].any())  # type: ignore[index]
    assert not bool(given[2].grad[V:].any())  # type: ignore[index]


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_hidden_states_may_lie_in_any_way(layout: str) -> None:
    hidden_TD = {
        "transposed": normal(D, T, seed=1).t(),
        "strided": normal(T, 2 * D, seed=1)[:, ::2],
        "expanded": normal(1, D, seed=1).expand(T, D),
    }[layout]
    weight_VD = normal(V, D, seed=2).requires_grad_()
    results = []
    for function in (lambda *x: loss(*x).total, plain):
        leaf_TD = hidden_TD.detach().requires_grad_()
        results.append(torch.autograd.grad(function(leaf_TD, weight_VD), (leaf_TD, weight_VD)))
    torch.testing.assert_close(results[0], results[1])


def test_autocast_changes_nothing() -> None:
    results = []
    for enabled in (False, True):
        hidden_TD, weight_VD, _ = (x.detach().float().requires_grad_() for x in tensors())
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            total = loss(hidden_TD, weight_VD).total
        results.append([total, *torch.autograd.grad(total, (hidden_TD, weight_VD))])
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_inputs_are_only_read() -> None:
    for kind, targets in every_kind(T, V, 2.0).items():
        given = tensors()
        before = [x.detach().clone() for x in given]
        told = {name: x.clone() for name, x in vars(targets).items() if torch.is_tensor(x)}
        loss(*given, targets=targets).total.backward()
        assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True)), kind
        assert all(torch.equal(vars(targets)[name], x) for name, x in told.items()), kind


class Largest(TorchDispatchMode):
    """Notes the size of the largest tensor of floats that any operation puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else [out]:
            if torch.is_tensor(x) and x.is_floating_point():
                self.elements = max(self.elements, x.numel())
        return out


@pytest.mark.parametrize("kind", ["top_k", "sampled", "hidden"])
def test_no_tensor_is_larger_than_a_chunk_or_the_weight(kind: str) -> None:
    num_tokens, vocab_size, width = 256, 300, 8
    targets = every_kind(num_tokens, vocab_size, 1.0)[kind]
    hidden_TD = normal(num_tokens, width, seed=1).requires_grad_()
    weight_VD = normal(vocab_size, width, seed=2).requires_grad_()
    with Largest() as largest:
        linear_distillation_loss(
            hidden_TD,
            weight_VD,
            None,
            torch.zeros(num_tokens, dtype=torch.long),
            targets,
            LossSpec((("forward_kl", 1.0),), temperature=2.0, alpha=0.5),
            shape=LogitShape(softcap=5.0),
            vocab_size=vocab_size,
            chunk_tokens=16,
        ).total.backward()
    assert largest.elements == 16 * vocab_size > vocab_size * width


@pytest.mark.parametrize(
    ("num_tokens", "dtype", "num_buffers", "expected"),
    [
        (2048, torch.bfloat16, 1, 256),  # half of the weight's bytes
        (4096, torch.bfloat16, 1, 256),
        (2048, torch.float32, 1, 220),  # 128 MiB
        (512, torch.float32, 1, 64),  # an eighth of the tokens
        (16, torch.float32, 1, 64),
        (2048, torch.bfloat16, 2, 128),
    ],
)
def test_the_size_of_a_chunk(
    num_tokens: int, dtype: torch.dtype, num_buffers: int, expected: int
) -> None:
    weight_VD = torch.empty(151_936, 512, dtype=dtype, device="cpu")
    assert chunk_size_tokens(num_tokens, weight_VD, 151_936, num_buffers) == expected
