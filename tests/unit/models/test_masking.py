"""Masked text as teacher and student see it, and what a model says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from raykd import schema
from raykd.models.encoder import EncoderSpec, encoder_outputs, open_encoder
from raykd.models.load import ModelSource
from raykd.models.masking import Masking, batch_of, seen_ids

MASK, VOCAB = 90, 91
MASKING = Masking(MASK, VOCAB)
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32},
    "roberta": {},
    "electra": {"embedding_size": 16},
    "mpnet": {},
    "modernbert": {"global_attn_every_n_layers": 2},
}


def rows_of(texts: list[list[int]], masks: list[list[int]], length: int) -> pa.Table:
    """Padded rows; `masks` names the masked places."""
    columns: dict[str, list[list[int]]] = {name: [] for name in schema.PREPARED.names}
    for ids, masked in zip(texts, masks, strict=True):
        padding = [0] * (length - len(ids))
        columns["input_ids"].append(ids + padding)
        columns["position_ids"].append([*range(len(ids)), *padding])
        columns["loss_mask"].append([int(at + 1 in masked) for at in range(length)])
    return pa.table(columns, schema=schema.PREPARED)


def many_rows(num: int, length: int = 60) -> pa.Table:
    draw = np.random.default_rng(0)
    texts = [[1, *draw.integers(4, 90, length - 2).tolist(), 2] for _ in range(num)]
    return rows_of(texts, [list(range(1, length - 1))] * num, length)


def test_a_row_is_seen_alike_in_every_company() -> None:
    texts = [[1, *range(10, 22), 2], [1, 30, 31, 2], [1, *range(40, 50), 2]]
    masks = [[2, 5, 7], [1], [1, 2, 3, 9]]
    together = batch_of(rows_of(texts, masks, 16), MASKING)
    for at, (text, masked) in enumerate(zip(texts, masks, strict=True)):
        alone = batch_of(rows_of([text], [masked], len(text)), MASKING)
        torch.testing.assert_close(together.input_ids_BT[at, : len(text)], alone.input_ids_BT[0])
        changed = (alone.input_ids_BT[0] != torch.tensor(text)).nonzero()[:, 0].tolist()
        assert set(changed) <= set(masked)
        assert alone.keep_M.tolist() == masked
        assert alone.label_ids_M.tolist() == [text[place] for place in masked]


def test_another_mask_of_the_same_text_is_another_draw() -> None:
    text = [1, *range(10, 68), 2]
    seen = [
        seen_ids(rows_of([text], [list(range(1, last))], 60), MASKING)[:40] for last in (58, 59)
    ]
    assert len(seen[0]) == len(seen[1]) == 40
    assert (seen[0] != seen[1]).any()


def test_eight_of_ten_are_masks_one_is_random_one_is_left() -> None:
    rows = many_rows(100)
    labels = batch_of(rows, MASKING).label_ids_M.numpy()
    seen = seen_ids(rows, MASKING)
    num = len(seen)
    assert num == 100 * 58
    left = (seen == labels).mean()
    masks = (seen == MASK).mean()
    # A random id is the mask's or the label's once in VOCAB draws.
    expected = {"masks": 0.8 + 0.1 / VOCAB, "left": 0.1 + 0.1 / VOCAB}
    for share, name in ((masks, "masks"), (left, "left")):
        wanted = expected[name]
        assert abs(share - wanted) < 4 * (wanted * (1 - wanted) / num) ** 0.5
    drawn = seen[(seen != MASK) & (seen != labels)]
    assert drawn.min() >= 0
    assert drawn.max() < VOCAB
    assert len(set(drawn.tolist())) > 80


def test_rows_are_not_changed_and_others_are_as_collate_makes_them() -> None:
    rows = many_rows(2)
    before = rows.column("input_ids").to_pylist()
    batch_of(rows, MASKING)
    assert rows.column("input_ids").to_pylist() == before
    plain = batch_of(rows, None)
    assert plain.input_ids_BT.tolist() == before


def test_a_filler_has_nothing_masked() -> None:
    filler = pa.table({name: [[0] * 8] for name in schema.PREPARED.names}, schema=schema.PREPARED)
    assert len(batch_of(filler, MASKING).keep_M) == 0


@pytest.mark.parametrize("family", list(FAMILIES))
def test_logits_and_states_are_those_of_the_whole_model(family: str, tmp_path: Path) -> None:
    sizes = {
        "vocab_size": VOCAB + 5,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 40,
        "pad_token_id": 0,
        **FAMILIES[family],
    }
    if family == "distilbert":
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers"):
            del sizes[name]
        del sizes["num_attention_heads"]
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **sizes)
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    spec = EncoderSpec("masked", (), 2, with_hidden=True, masking=MASKING)
    model, fresh = open_encoder(ModelSource(str(tmp_path)), spec, "fp32", "x")
    assert fresh == []
    model.eval()
    texts = [[1, *range(10, 22), 2], [1, 30, 31, 2]]
    batch = batch_of(rows_of(texts, [[2, 5, 13 - 1], [1, 2]], 16), MASKING)
    found = encoder_outputs(model, batch, spec)
    wanted_logits, wanted_hidden = [], []
    for at, (text, places) in enumerate(zip(texts, ([2, 5, 12], [1, 2]), strict=True)):
        seen = batch.input_ids_BT[at, : len(text)][None]
        output = model(
            input_ids=seen, attention_mask=torch.ones_like(seen), output_hidden_states=True
        )
        wanted_logits.append(output.logits[0, places, :VOCAB])
        wanted_hidden.append(model.base_model(input_ids=seen).last_hidden_state[0, places])
    torch.testing.assert_close(found.outputs_MC, torch.cat(wanted_logits), rtol=1e-4, atol=1e-5)
    assert found.hidden_MH is not None
    torch.testing.assert_close(found.hidden_MH, torch.cat(wanted_hidden), rtol=1e-4, atol=1e-5)


def test_no_masked_token_leaves_a_gradient_of_nothing(
    tmp_path: Path, save_bert: Callable[..., Path]
) -> None:
    spec = EncoderSpec("masked", (), 2, masking=Masking(3, 10))
    model, fresh = open_encoder(ModelSource(str(save_bert(tmp_path / "b"))), spec, "fp32", "x")
    assert any("predictions" in name for name in fresh)
    batch = batch_of(rows_of([[1, 5, 2]], [[]], 3), spec.masking)
    outputs = encoder_outputs(model, batch, spec).outputs_MC
    assert outputs.shape == (0, 10)
    outputs.sum().backward()
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert not gradient.any()
