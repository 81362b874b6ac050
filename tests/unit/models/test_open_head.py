"""A head that lets its weights be used, and a head that leaves its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from raykd.errors import ModelError
from raykd.models.head import AfterHead, OpenHead, check_head, open_head, read_head, save_head

CPU = torch.device("cpu")
MakeModel = Callable[..., Any]


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "cohere", "granite", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_opening_changes_neither_names_nor_logits(
    model_type: str, tied: bool, tiny_model: MakeModel
) -> None:
    model = tiny_model(model_type, tie_word_embeddings=tied)
    ids = torch.arange(3, 13)[None]
    names = list(model.state_dict())
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    with torch.no_grad():
        before = model(input_ids=ids).logits
        open_head(model, "student")
        assert torch.equal(model(input_ids=ids).logits, before)
    assert isinstance(model.get_output_embeddings(), OpenHead)
    assert list(model.state_dict()) == names
    now = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert now == shared == tied
    check_head(model, "student")


def test_what_it_is_used_for_comes_back(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    open_head(model, "student")
    hidden = torch.randn(4, 32)
    found = model.lm_head(hidden, lambda h, w, b: (h, w, b))
    assert found[0] is hidden
    assert found[1] is model.lm_head.weight
    assert found[2] is None


def test_a_head_that_is_not_plain_is_refused(tiny_model: MakeModel) -> None:
    model = tiny_model("llama")
    model.set_output_embeddings(torch.nn.Sequential(model.lm_head))
    with pytest.raises(ModelError, match=r"found Sequential. If LoRA adapts it, leave it out"):
        open_head(model, "student")


@pytest.mark.parametrize(
    ("model_type", "after"),
    [
        ("llama", AfterHead()),
        ("gemma2", AfterHead(1.0, 1.5)),
        ("cohere", AfterHead(0.25)),
        ("granite", AfterHead(1 / 5.0)),
    ],
)
def test_a_saved_head_gives_the_models_logits(
    model_type: str, after: AfterHead, tiny_model: MakeModel, tmp_path: Path
) -> None:
    model = tiny_model(model_type)
    file = tmp_path / "deep" / "head.safetensors"
    save_head(model, file, write=True)
    assert [path.name for path in file.parent.iterdir()] == ["head.safetensors"]
    head = read_head(file, 90, CPU)
    assert head.after == after
    ids = torch.arange(3, 13)[None]
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids).last_hidden_state[0]
        own = model(input_ids=ids).logits[0]
        ours = head.after(torch.nn.functional.linear(hidden, head.weight_VD, head.bias_V))
    torch.testing.assert_close(ours, own[:, :90], atol=1e-5, rtol=1e-5)


def test_a_bias_goes_with_the_weight(tmp_path: Path) -> None:
    weight, bias = torch.randn(7, 3), torch.randn(7)
    file = tmp_path / "head.safetensors"
    save_file({"weight": weight, "bias": bias}, file, {"after": '{"scale": 2.0, "softcap": null}'})
    head = read_head(file, 5, CPU)
    assert torch.equal(head.weight_VD, weight[:5])
    assert head.bias_V is not None
    assert torch.equal(head.bias_V, bias[:5])
    assert head.after == AfterHead(2.0)


def test_only_one_shard_writes(tiny_model: MakeModel, tmp_path: Path) -> None:
    save_head(tiny_model("llama"), tmp_path / "head.safetensors", write=False)
    assert not list(tmp_path.iterdir())


def test_a_head_that_is_missing_broken_or_too_short(tiny_model: MakeModel, tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    with pytest.raises(ModelError, match="head cannot be read"):
        read_head(file, 96, CPU)
    save_head(tiny_model("llama"), file, write=True)
    with pytest.raises(ModelError, match="has 96 rows, 97 are needed"):
        read_head(file, 97, CPU)
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ModelError, match="head cannot be read"):
        read_head(file, 96, CPU)
