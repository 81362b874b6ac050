from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import pytest
import torch

from raykd.errors import ModelError
from raykd.models.head import check_head, head_logits, hidden_states

HEADS = ["llama", "gemma2", "cohere", "granite"]
MakeModel = Callable[..., Any]


def packed(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """One row of documents: ids and positions [1, T]."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 96, (1, sum(lengths)), generator=generator)
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    return ids, positions


@torch.no_grad()
def logits_of(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return head_logits(model, hidden_states(model, ids, positions)[0])


@pytest.mark.parametrize("model_type", HEADS)
@torch.no_grad()
def test_the_head_alone_gives_the_models_own_logits(model_type: str, tiny_model: MakeModel) -> None:
    model = tiny_model(model_type)
    ids, positions = packed([10])
    own = model(input_ids=ids).logits[0]
    torch.testing.assert_close(logits_of(model, ids, positions), own, atol=1e-5, rtol=1e-5)
    check_head(model, "teacher")


@pytest.mark.parametrize(
    ("model_type", "field"),
    [
        ("gemma2", "final_logit_softcapping"),
        ("cohere", "logit_scale"),
        ("granite", "logits_scaling"),
    ],
)
def test_a_scale_that_is_left_out_is_noticed(
    model_type: str, field: str, tiny_model: MakeModel
) -> None:
    """The sizes chosen for these tests are able to show it."""
    model = tiny_model(model_type)
    ids, positions = packed([10])
    before = logits_of(model, ids, positions)
    setattr(model.config, field, {"final_logit_softcapping": None}.get(field, 1.0))
    assert (logits_of(model, ids, positions) - before).abs().max() > 0.1


def test_padded_rows_of_the_head_are_cut_off(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    hidden = torch.randn(5, 32)
    whole = head_logits(model, hidden)
    assert whole.shape == (5, 96)
    assert torch.equal(head_logits(model, hidden, 90), whole[:, :90])


def test_no_positions_give_no_logits(tiny_model: MakeModel) -> None:
    assert head_logits(tiny_model("llama"), torch.zeros(0, 32), 90).shape == (0, 90)


@pytest.mark.parametrize("change", [lambda x: x * 1.5, lambda x: x + 1.0, lambda x: x.flip(-1)])
def test_an_unknown_change_after_the_head_is_refused(
    change: Callable[[torch.Tensor], torch.Tensor], tiny_model: MakeModel
) -> None:
    model = tiny_model("llama")
    plain = model.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = change(output.logits)
        return output

    model.forward = MethodType(forward, model)
    with pytest.raises(ModelError, match=r"teacher: LlamaForCausalLM changes its logits after"):
        check_head(model, "teacher")


def test_logits_that_are_no_numbers_are_refused(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[7, 0] = float("nan")
    with pytest.raises(ModelError):
        check_head(model, "teacher")


@pytest.mark.parametrize("model_type", [*HEADS, "gpt2"])
def test_documents_of_a_row_are_as_if_alone(model_type: str, tiny_model: MakeModel) -> None:
    model = tiny_model(model_type)
    lengths = [7, 1, 12, 4]
    ids, positions = packed(lengths)
    together = logits_of(model, ids, positions)
    at = 0
    for length in lengths:
        one = slice(at, at + length)
        with torch.no_grad():
            alone = model(input_ids=ids[:, one]).logits[0]
        torch.testing.assert_close(together[one], alone, atol=2e-5, rtol=1e-4)
        at += length


def test_documents_are_kept_apart_in_every_row_of_a_batch(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    rows = [packed([5, 7], seed=1), packed([9, 3], seed=2)]
    ids = torch.cat([row[0] for row in rows])
    positions = torch.cat([row[1] for row in rows])
    with torch.no_grad():
        hidden = hidden_states(model, ids, positions)
        for row, (one_ids, one_positions) in enumerate(rows):
            alone = hidden_states(model, one_ids, one_positions)[0]
            torch.testing.assert_close(hidden[row], alone, atol=1e-5, rtol=1e-5)


def test_another_documents_tokens_change_nothing(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    ids, positions = packed([6, 8, 5])
    changed = ids.clone()
    changed[0, 6:14] = (changed[0, 6:14] + 11) % 93 + 3
    before, after = logits_of(model, ids, positions), logits_of(model, changed, positions)
    unchanged = [*range(6), *range(14, 19)]
    assert torch.equal(before[unchanged], after[unchanged])
    assert (before[6:14] - after[6:14]).abs().amax(dim=1).min() > 1e-3


def test_without_positions_a_document_would_see_the_one_before(tiny_model: MakeModel) -> None:
    """The test above is able to fail."""
    model = tiny_model("llama")
    ids, positions = packed([6, 8])
    running = torch.arange(14).unsqueeze(0)
    apart, mixed = logits_of(model, ids, positions), logits_of(model, ids, running)
    assert (apart[6:] - mixed[6:]).abs().max() > 1e-2


def test_documents_stay_apart_under_activation_checkpointing(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    ids, positions = packed([6, 8])
    plain = hidden_states(model, ids, positions).detach()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model.train()
    again = hidden_states(model, ids, positions)
    torch.testing.assert_close(again.detach(), plain)
    again.sum().backward()
    assert model.model.embed_tokens.weight.grad.abs().sum() > 0
