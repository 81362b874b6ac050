"""Encoders: what they put out at learned positions, and where their weights come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertModel,
)

from raykd.config.student import FromConfig, FromPretrained, FromTeacher
from raykd.errors import ModelError
from raykd.models.batch import Batch
from raykd.models.encoder import (
    EncoderSpec,
    encoder_config,
    encoder_outputs,
    load_encoder,
    open_encoder,
)
from raykd.models.encoder_init import write_encoder
from raykd.models.load import ModelSource
from raykd.models.sentence import pooling_of, write_pooling

SaveBert = Callable[..., Path]
LABELS = ("a", "b", "c")
TEXTS = [("the wind moves", "no stone"), ("a teacher learns", None), ("the river", None)]


def batch_of(tokenizer: Any, keep: list[list[int]]) -> Batch:
    """The texts padded together, learned at the places of each that `keep` names."""
    rows = [tokenizer(*(part for part in text if part))["input_ids"] for text in TEXTS]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    positions = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        positions[i, : len(row)] = torch.arange(len(row))
    flat = [i * longest + at for i, places in enumerate(keep) for at in places]
    return Batch(ids, positions, torch.tensor(flat), torch.zeros(len(flat), dtype=torch.long))


def alone(tokenizer: Any, text: tuple[str, str | None]) -> dict[str, Any]:
    return dict(tokenizer(*(part for part in text if part), return_tensors="pt"))


@pytest.fixture
def bert(tmp_path: Path, save_bert: SaveBert) -> ModelSource:
    return ModelSource(str(save_bert(tmp_path / "bert")))


def spec_of(task: str, tokenizer: Any, **fields: Any) -> EncoderSpec:
    labels = LABELS if task in ("single_label", "multi_label", "tokens") else ()
    return EncoderSpec(task, labels, tokenizer.sep_token_id, **fields)  # type: ignore[arg-type]


def test_texts_and_pairs_in_one_batch_are_as_each_alone(
    bert: ModelSource, encoder_tokenizer: Any
) -> None:
    spec = spec_of("single_label", encoder_tokenizer, with_hidden=True)
    model, _ = open_encoder(bert, spec, "fp32", "x")
    model.eval()
    found = encoder_outputs(model, batch_of(encoder_tokenizer, [[0], [], [0]]), spec)
    for at, text in ((0, TEXTS[0]), (1, TEXTS[2])):
        out = model(**alone(encoder_tokenizer, text), output_hidden_states=True)
        torch.testing.assert_close(found.outputs_MC[at], out.logits[0])
        assert found.hidden_MH is not None
        torch.testing.assert_close(found.hidden_MH[at], out.hidden_states[-1][0, 0])


def test_words_are_learned_where_the_mask_says(bert: ModelSource, encoder_tokenizer: Any) -> None:
    spec = spec_of("tokens", encoder_tokenizer)
    model, _ = open_encoder(bert, spec, "fp32", "x")
    model.eval()
    found = encoder_outputs(model, batch_of(encoder_tokenizer, [[], [1, 3], [2]]), spec)
    one = model(**alone(encoder_tokenizer, TEXTS[1])).logits[0]
    two = model(**alone(encoder_tokenizer, TEXTS[2])).logits[0]
    torch.testing.assert_close(found.outputs_MC, torch.stack([one[1], one[3], two[2]]))


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedding_is_pooled_over_true_tokens(
    bert: ModelSource, encoder_tokenizer: Any, pooling: str
) -> None:
    spec = spec_of("embedding", encoder_tokenizer, pooling=pooling)
    model, _ = open_encoder(bert, spec, "fp32", "x")
    model.eval()
    found = encoder_outputs(model, batch_of(encoder_tokenizer, [[0], [0], [0]]), spec)
    plain = BertModel.from_pretrained(bert.path).eval()
    for at, text in enumerate(TEXTS):
        states = plain(**alone(encoder_tokenizer, text)).last_hidden_state[0]
        wanted = states.mean(0) if pooling == "mean" else states[0]
        torch.testing.assert_close(found.outputs_MC[at], wanted)


def test_a_teacher_without_a_head_is_refused(bert: ModelSource, encoder_tokenizer: Any) -> None:
    spec = spec_of("single_label", encoder_tokenizer)
    with pytest.raises(ModelError, match=r"lacks classifier.bias, .* Fine-tune it first"):
        load_encoder(bert, spec, "fp32", "teacher.model")


def test_a_model_that_reads_from_left_to_right_is_refused(teacher_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"teacher.model: llama is no encoder"):
        encoder_config(ModelSource(str(teacher_dir)), "teacher.model")


def fine_tuned(bert: ModelSource, spec: EncoderSpec, directory: Path) -> ModelSource:
    torch.manual_seed(5)
    init = FromPretrained(start="pretrained", model=bert.path)
    return write_encoder(init, bert, bert, spec, 3, directory, teacher_has_head=False)


def test_a_cut_student_has_its_teachers_layers_and_head(
    bert: ModelSource, encoder_tokenizer: Any, tmp_path: Path
) -> None:
    spec = spec_of("single_label", encoder_tokenizer)
    teacher = fine_tuned(bert, spec, tmp_path / "teacher")
    init = FromTeacher(
        start="teacher",
        layers=[1],
        widths={"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24},
    )
    source = write_encoder(init, teacher, None, spec, 3, tmp_path / "cut", teacher_has_head=True)
    student = AutoModelForSequenceClassification.from_pretrained(source.path).state_dict()
    whole = AutoModelForSequenceClassification.from_pretrained(teacher.path).state_dict()
    name = "bert.encoder.layer.{}.intermediate.dense.weight"
    torch.testing.assert_close(student[name.format(0)], whole[name.format(1)][:24, :16])
    torch.testing.assert_close(student["classifier.weight"], whole["classifier.weight"][:, :16])
    assert not any("layer.1." in key for key in student)


def test_fresh_weights_come_from_the_seed(
    bert: ModelSource, encoder_tokenizer: Any, tmp_path: Path
) -> None:
    spec = spec_of("tokens", encoder_tokenizer)
    init = FromConfig(
        start="config",
        config={
            "model_type": "bert",
            "vocab_size": len(encoder_tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
        },
    )
    states = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        torch.rand(7)  # whatever was drawn before
        source = write_encoder(init, bert, None, spec, seed, tmp_path / name, False)
        model = AutoModelForTokenClassification.from_pretrained(source.path)
        states.append(model.state_dict()["classifier.weight"])
        assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    torch.testing.assert_close(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_heads_keep_their_size(bert: ModelSource, encoder_tokenizer: Any, tmp_path: Path) -> None:
    spec = spec_of("embedding", encoder_tokenizer, pooling="mean")
    init = FromTeacher(start="teacher", layers=1, widths={"hidden_size": 16})
    with pytest.raises(ModelError, match="takes the size of its heads from the hidden size"):
        write_encoder(init, bert, None, spec, 0, tmp_path / "cut", teacher_has_head=True)


def test_pooling_is_read_and_written(bert: ModelSource, tmp_path: Path) -> None:
    assert pooling_of(bert) is None
    (tmp_path / "one").mkdir()
    write_pooling(tmp_path / "one", bert, "cls", 32, 64)
    assert pooling_of(ModelSource(str(tmp_path / "one"))) == "cls"
    config = tmp_path / "one" / "1_Pooling" / "config.json"
    config.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelError, match="pools by pooling_mode_max_tokens; known are"):
        pooling_of(ModelSource(str(tmp_path / "one")))
