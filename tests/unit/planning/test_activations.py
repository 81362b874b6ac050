"""What layers keep for the backward pass, against what autograd really keeps."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from raykd.models.head import hidden_states
from raykd.planning.activations import kept_for_backward, layer_bytes_a_token, while_scoring
from raykd.planning.families import KNOWN, shape_of

ROWS, LENGTH = 2, 64
WIDTH = {torch.bfloat16: 2, torch.float32: 4}


def config_of(name: str, layers: int) -> dict[str, Any]:
    if name == "gpt2":
        sizes = {"n_embd": 32, "n_inner": 48, "n_layer": layers, "n_head": 4}
        quiet = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
        return {"model_type": name, "vocab_size": 100, **sizes, **quiet}
    return {
        "model_type": name,
        "vocab_size": 100,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def model_of(fields: dict[str, Any], dtype: torch.dtype) -> Any:
    fields = dict(fields)
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=dtype).train()


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Packed rows of two documents each."""
    ids_BT = torch.randint(3, 90, (ROWS, LENGTH))
    positions_T = torch.cat([torch.arange(LENGTH // 4), torch.arange(LENGTH - LENGTH // 4)])
    return ids_BT, positions_T.expand(ROWS, LENGTH)


def autograd_keeps(model: Any) -> int:
    """Bytes of all that is saved for backward, parameters left out, each storage once."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = hidden_states(model, *inputs())
    assert hidden.requires_grad
    return sum(sizes.values())


@pytest.mark.filterwarnings("ignore:.*token_id must be")
@pytest.mark.parametrize("dtype", WIDTH, ids=str)
@pytest.mark.parametrize("name", KNOWN)
def test_one_layer(name: str, dtype: torch.dtype) -> None:
    two, three = config_of(name, 2), config_of(name, 3)
    measured = autograd_keeps(model_of(three, dtype)) - autograd_keeps(model_of(two, dtype))
    reckoned = layer_bytes_a_token(shape_of(two, "student"), WIDTH[dtype], LENGTH)
    assert ROWS * LENGTH * reckoned == pytest.approx(measured, rel=0.01)


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_checkpointing_keeps_layer_inputs(name: str) -> None:
    fields = config_of(name, 6)
    model = model_of(fields, torch.bfloat16)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    shape = shape_of(fields, "student")
    stays, again = kept_for_backward(shape, 2, ROWS, LENGTH, checkpointing=True)
    mask = 0 if shape.full_scores else ROWS * LENGTH**2  # lives, but autograd does not hold it
    assert stays - mask == pytest.approx(autograd_keeps(model), rel=0.15)
    assert again == ROWS * LENGTH * layer_bytes_a_token(shape, 2, LENGTH)


def test_more_rows_keep_more() -> None:
    shape = shape_of(config_of("llama", 3), "student")
    one, _ = kept_for_backward(shape, 2, 1, LENGTH, checkpointing=False)
    two, _ = kept_for_backward(shape, 2, 2, LENGTH, checkpointing=False)
    assert two == 2 * one


class Alive(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes that were alive at once of what operations made."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.most = 0, 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else [out]:
            if isinstance(one, torch.Tensor):
                self._follow(one.untyped_storage())
        return out

    def _follow(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._seen.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2"])
def test_scoring_needs_no_more_than_reckoned(name: str) -> None:
    fields = config_of(name, 3)
    model = model_of(fields, torch.bfloat16).eval()
    with torch.inference_mode(), Alive() as alive:
        hidden_states(model, *inputs())
    reckoned = while_scoring(shape_of(fields, "teacher"), 2, ROWS, LENGTH, 1)
    assert alive.most <= reckoned <= 1.3 * alive.most
