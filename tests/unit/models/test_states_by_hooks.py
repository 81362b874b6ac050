"""States taken by hooks against those that the model itself hands out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from raykd.errors import ModelError
from raykd.models.alignment import InnerShape
from raykd.models.head import hidden_states
from raykd.models.states import StateTaker, projections_of, require_states

IDS = torch.arange(24).view(2, 12) % 90 + 3
POSITIONS = torch.arange(12).expand(2, -1)
NAMES = ("query", "key", "value")


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "cohere", "granite", "gpt2", "phi3"])
def test_hidden_states_are_the_models_own(model_type: str, tiny_model: Callable[..., Any]) -> None:
    layers = {"n_layer": 3} if model_type == "gpt2" else {}
    model = tiny_model(model_type, num_hidden_layers=3, **layers)
    taker = StateTaker(model, [0, 1], None, ())
    with torch.no_grad():
        own = model(input_ids=IDS, position_ids=POSITIONS, output_hidden_states=True).hidden_states
        with taker.taking() as taken:
            hidden_states(model, IDS, POSITIONS)
    assert sorted(taken.hidden) == [0, 1]
    for layer in (0, 1):
        torch.testing.assert_close(taken.hidden[layer], own[layer + 1])


def test_the_last_layers_state_is_what_its_norm_takes(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    taker = StateTaker(model, [1], None, ())
    with torch.no_grad(), taker.taking() as taken:
        after = hidden_states(model, IDS, POSITIONS)
    torch.testing.assert_close(model.model.norm(taken.hidden[1]), after)


@pytest.mark.parametrize("model_type", ["llama", "opt", "cohere"])
def test_projections_are_before_rotary_positions(
    model_type: str, tiny_model: Callable[..., Any]
) -> None:
    model = tiny_model(model_type)
    taker = StateTaker(model, [0], 1, NAMES)
    with torch.no_grad(), taker.taking() as taken:
        hidden_states(model, IDS, POSITIONS)
    layer = (model.model.layers if model_type != "opt" else model.model.decoder.layers)[1]
    norm = layer.self_attn_layer_norm if model_type == "opt" else layer.input_layernorm
    with torch.no_grad():
        expected = {
            name: getattr(layer.self_attn, f"{name[0]}_proj")(norm(taken.hidden[0]))
            for name in NAMES
        }
    assert list(taken.projections) == list(NAMES)
    for name in NAMES:
        torch.testing.assert_close(taken.projections[name], expected[name])


def test_nothing_is_held_outside_of_the_block(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model("llama")
    taker = StateTaker(model, [0], 0, NAMES)
    with taker.taking() as first:
        pass
    with torch.no_grad():
        hidden_states(model, IDS, POSITIONS)
    assert not first.hidden
    assert not first.projections


@pytest.mark.parametrize("which", ["hidden", "projection"])
def test_gradients_are_the_same_where_activations_are_computed_anew(
    which: str, tiny_model: Callable[..., Any]
) -> None:
    told = {}
    for anew in (False, True):
        model = tiny_model("llama", seed=4).train()
        if anew:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.enable_input_require_grads()
        taker = StateTaker(model, [0, 1], 1, NAMES)
        with taker.taking() as taken:
            out = hidden_states(model, IDS, POSITIONS)
        states = taken.hidden if which == "hidden" else taken.projections
        loss = out.square().sum() + sum(one.pow(3).sum() for one in states.values())
        loss.backward()
        told[anew] = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert told[True].keys() == told[False].keys()
    assert any("layers.1.self_attn.k_proj" in name for name in told[True])
    for name, gradient in told[False].items():
        torch.testing.assert_close(told[True][name], gradient, msg=lambda m, n=name: f"{n}: {m}")


def test_one_projection_for_all_three_is_refused(tiny_model: Callable[..., Any]) -> None:
    phi = tiny_model("phi3")
    with pytest.raises(ModelError, match=r"no query, key and value .*\(qkv_proj\) makes all three"):
        StateTaker(phi, [0], 0, NAMES)
    with pytest.raises(ModelError, match=r"^teacher.model: representations.attention: GPT2Block"):
        require_states(tiny_model("gpt2").config, [0], 1, "teacher.model")
    require_states(tiny_model("gpt2").config, [0, 1], None, "teacher.model")


def test_a_projection_that_holds_more_than_heads_is_refused(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_model("llama").config
    require_states(config, [0], 1, "teacher.model")
    wide = InnerShape(2, 32, 8, 2, 8)
    monkeypatch.setattr("raykd.models.states.InnerShape.of", lambda config: wide)
    with pytest.raises(ModelError, match=r"the query projection is 32 wide, .* make 64"):
        require_states(config, [0], 1, "teacher.model")
    require_states(config, [0], None, "teacher.model")


def test_cross_attention_is_not_taken_for_the_layers_own() -> None:
    layer = torch.nn.Module()
    for part in ("self_attn", "encoder_attn"):
        attention = torch.nn.Module()
        for name in ("q_proj", "k_proj", "v_proj"):
            attention.add_module(name, torch.nn.Linear(2, 2))
        layer.add_module(part, attention)
    found = projections_of(layer, NAMES)
    assert found["query"] is layer.self_attn.q_proj
