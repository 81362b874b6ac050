from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raykd.config.student import FromConfig, FromTeacher
from raykd.errors import ModelError
from raykd.models import init
from raykd.models.init import chosen_layers, cut_from_teacher, fresh, student_config, write_student
from raykd.models.load import ModelSource, load_model, load_tokenizer

MakeModel = Callable[..., Any]
FRESH = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}


def from_teacher(layers: Any, **widths: int) -> FromTeacher:
    return FromTeacher(start="teacher", layers=layers, widths=widths)


def from_config(**fields: Any) -> FromConfig:
    return FromConfig(start="config", config=fields)


@pytest.mark.parametrize(
    ("wanted", "of", "indices"),
    [
        (1, 4, [0]),
        (2, 4, [0, 3]),
        (4, 4, [0, 1, 2, 3]),
        (3, 5, [0, 2, 4]),
        (2, 30, [0, 29]),
        (1, 1, [0]),
        ([0, 2], 4, [0, 2]),
        ([3], 4, [3]),
    ],
)
def test_chosen_layers(wanted: Any, of: int, indices: list[int]) -> None:
    assert chosen_layers(wanted, of) == indices


@pytest.mark.parametrize("of", range(1, 33))
def test_spread_layers_are_distinct_and_hold_both_ends(of: int) -> None:
    for wanted in range(2, of + 1):
        indices = chosen_layers(wanted, of)
        assert len(set(indices)) == wanted
        assert indices == sorted(indices)
        assert (indices[0], indices[-1]) == (0, of - 1)


@pytest.mark.parametrize("wanted", [0, 5, -1, [], [4], [-1], [1, 0], [1, 1]])
def test_layers_that_are_not_there(wanted: Any) -> None:
    with pytest.raises(ModelError, match=r"^student\.init\.layers: "):
        chosen_layers(wanted, 4)


def test_cut_layers_are_the_teachers(tiny_model: MakeModel) -> None:
    teacher = tiny_model("llama", num_hidden_layers=4)
    student = cut_from_teacher(from_teacher([1, 3]), teacher)
    assert student.config.num_hidden_layers == len(student.model.layers) == 2
    theirs, ours = teacher.state_dict(), student.state_dict()
    for name, weight in ours.items():
        source = name.replace("layers.1.", "layers.3.").replace("layers.0.", "layers.1.")
        assert torch.equal(weight, theirs[source]), name
    assert teacher.config.num_hidden_layers == 4


def test_all_layers_are_the_teacher(tiny_model: MakeModel) -> None:
    teacher = tiny_model("llama", num_hidden_layers=3)
    student = cut_from_teacher(from_teacher(3), teacher)
    ids = torch.arange(3, 12).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(student(ids).logits, teacher(ids).logits)


def test_a_cut_student_shares_no_memory_with_the_teacher(tiny_model: MakeModel) -> None:
    teacher = tiny_model("llama")
    student = cut_from_teacher(from_teacher(1), teacher)
    before = teacher.lm_head.weight.clone()
    with torch.no_grad():
        student.lm_head.weight.add_(1.0)
    assert torch.equal(teacher.lm_head.weight, before)


def test_widths_are_leading_slices(tiny_model: MakeModel) -> None:
    teacher = tiny_model("llama", num_hidden_layers=3)
    cut = from_teacher(
        2, hidden_size=16, intermediate_size=40, num_attention_heads=2, num_key_value_heads=1
    )
    student = cut_from_teacher(cut, teacher)
    theirs, ours = teacher.model.layers[2], student.model.layers[1]
    # heads stay 8 wide: 2 of 4 queries and 1 of 2 keys
    assert ours.self_attn.q_proj.weight.shape == (16, 16)
    assert ours.self_attn.k_proj.weight.shape == (8, 16)
    pairs = [
        (ours.self_attn.q_proj.weight, theirs.self_attn.q_proj.weight[:16, :16]),
        (ours.self_attn.k_proj.weight, theirs.self_attn.k_proj.weight[:8, :16]),
        (ours.self_attn.o_proj.weight, theirs.self_attn.o_proj.weight[:16, :16]),
        (ours.mlp.up_proj.weight, theirs.mlp.up_proj.weight[:40, :16]),
        (ours.mlp.down_proj.weight, theirs.mlp.down_proj.weight[:16, :40]),
        (ours.input_layernorm.weight, theirs.input_layernorm.weight[:16]),
        (student.lm_head.weight, teacher.lm_head.weight[:, :16]),
    ]
    for mine, expected in pairs:
        assert torch.equal(mine, expected)


def test_heads_keep_their_size_when_the_hidden_size_falls(tiny_model: MakeModel) -> None:
    student = cut_from_teacher(from_teacher(1, hidden_size=16), tiny_model("llama"))
    assert student.model.layers[0].self_attn.head_dim == 8
    assert student.model.layers[0].self_attn.q_proj.weight.shape == (32, 16)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "cohere", "granite"])
def test_a_student_with_cut_widths_runs_and_can_be_opened_again(
    model_type: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    teacher = tiny_model(model_type, num_hidden_layers=4)
    student = cut_from_teacher(from_teacher([0, 2], intermediate_size=40, hidden_size=16), teacher)
    ids = torch.arange(3, 12).unsqueeze(0)
    with torch.no_grad():
        logits = student.eval()(ids).logits
        assert logits.shape == (1, 9, 96)
        assert torch.isfinite(logits).all()
        student.save_pretrained(tmp_path)
        again = load_model(ModelSource(str(tmp_path)), "fp32", "student").eval()
        torch.testing.assert_close(again(ids).logits, logits)


def test_lists_with_a_value_a_layer_are_cut_alike(tiny_model: MakeModel) -> None:
    teacher = tiny_model("gemma2", num_hidden_layers=4)
    kinds = teacher.config.layer_types
    assert len(set(kinds)) == 2
    student = cut_from_teacher(from_teacher([0, 1, 3]), teacher)
    assert student.config.layer_types == [kinds[0], kinds[1], kinds[3]]


def test_tied_embeddings_stay_tied(tiny_model: MakeModel) -> None:
    teacher = tiny_model("llama", tie_word_embeddings=True)
    student = cut_from_teacher(from_teacher(1, hidden_size=16), teacher)
    assert student.lm_head.weight is student.model.embed_tokens.weight
    assert torch.equal(student.lm_head.weight, teacher.model.embed_tokens.weight[:, :16])


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"num_attention_heads": 2}, "2 heads over 2 key-value heads; the teacher's grouping is 4"),
        ({"num_key_value_heads": 1}, "4 heads over 1 key-value heads"),
        ({"no_such_size": 3}, r"no_such_size: 3; the teacher has no such size"),
        ({"intermediate_size": 65}, "intermediate_size: 65; the teacher has 64; choose 1 to that"),
        ({"intermediate_size": 0}, "intermediate_size: 0; the teacher has 64"),
        ({"rms_norm_eps": 1}, "rms_norm_eps: 1; the teacher has 1e-06"),
        ({"hidden_size": 30}, "not a multiple of the number of attention heads"),
    ],
)
def test_widths_that_cannot_be_cut(
    widths: dict[str, int], message: str, tiny_model: MakeModel
) -> None:
    teacher = tiny_model("llama")
    for refuse in (
        lambda cut: student_config(cut, teacher.config),
        lambda cut: cut_from_teacher(cut, teacher),
    ):
        with pytest.raises(ModelError, match=r"^student\.init\.widths") as caught:
            refuse(from_teacher(1, **widths))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "widths"),
    [
        ("gpt2", {"hidden_size": 16, "num_attention_heads": 2}),
        ("phi3", {"hidden_size": 16}),
        ("phi3", {"intermediate_size": 32}),
    ],
)
def test_projections_in_one_matrix_are_not_sliced(
    model_type: str, widths: dict[str, int], tiny_model: MakeModel
) -> None:
    teacher = tiny_model(model_type)
    with pytest.raises(ModelError, match="holds several projections in one matrix"):
        cut_from_teacher(from_teacher(1, **widths), teacher)
    assert cut_from_teacher(from_teacher(1), teacher).config.num_hidden_layers == 1


def test_heads_that_would_become_narrower_are_refused(tiny_model: MakeModel) -> None:
    """OPT takes the size of a head from the hidden size and has no `head_dim`."""
    teacher = tiny_model("opt")
    with pytest.raises(ModelError, match="takes the size of its heads from the hidden size"):
        cut_from_teacher(from_teacher(1, hidden_size=16, word_embed_proj_dim=16), teacher)


def test_weights_that_the_teacher_does_not_have(tiny_model: MakeModel) -> None:
    """An embedding of another width than the layers brings a projection of its own."""
    with pytest.raises(ModelError, match="which the teacher does not have"):
        cut_from_teacher(from_teacher(1, word_embed_proj_dim=16), tiny_model("opt"))


def test_fresh_weights_depend_on_the_seed_alone() -> None:
    wanted = from_config(**FRESH)
    first = fresh(wanted, 5).state_dict()
    torch.rand(17)
    again, other = fresh(wanted, 5).state_dict(), fresh(wanted, 6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_fresh_weights_have_the_sizes_asked_for() -> None:
    model = fresh(from_config(**FRESH), 0)
    assert model.lm_head.weight.shape == (320, 16)
    assert model.model.layers[0].mlp.up_proj.weight.shape == (24, 16)
    assert model.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 8}, "`model_type` is missing"),
        ({"model_type": "lama"}, "transformers knows no model_type 'lama'"),
        ({"model_type": "llama", "hiden": 8, "wide": 1}, "configuration has no hiden, wide"),
        ({"model_type": "llama", "hidden_size": "x"}, "'hidden_size' expected int, got str"),
        ({**FRESH, "hidden_size": 15}, "not a multiple of the number of attention heads"),
        ({"model_type": "t5"}, "t5 is not a causal language model"),
    ],
)
def test_configurations_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=r"^student\.init\.config: ") as caught:
        student_config(from_config(**fields), None)
    assert message in str(caught.value)


@pytest.mark.parametrize("wanted", [from_config(**FRESH), from_teacher(2)], ids=["fresh", "cut"])
def test_a_written_student_opens_with_the_teachers_tokenizer(
    wanted: Any, teacher_dir: Path, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    directory = tmp_path / "untrained"
    source = write_student(wanted, ModelSource(str(teacher_dir)), 3, directory)
    assert source == ModelSource(str(directory.resolve()))
    assert [path.name for path in tmp_path.iterdir()] == ["untrained"]
    model = load_model(source, "fp32", "student.init")
    assert model.config.num_hidden_layers == len(model.model.layers)
    assert load_tokenizer(source, "student").get_vocab() == tiny_tokenizer.get_vocab()
    assert any(directory.glob("*.safetensors"))


def test_a_student_that_is_written_is_used_again(teacher_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "untrained"
    teacher = ModelSource(str(teacher_dir))
    write_student(from_config(**FRESH), teacher, 3, directory)
    before = {p.name: p.stat().st_mtime_ns for p in directory.iterdir()}
    write_student(from_config(**FRESH), teacher, 4, directory)
    assert {p.name: p.stat().st_mtime_ns for p in directory.iterdir()} == before


def test_a_student_half_written_is_not_taken_for_whole(
    teacher_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "untrained"
    teacher = ModelSource(str(teacher_dir))

    def broken(*_: Any) -> Any:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(init, "load_tokenizer", broken)
        with pytest.raises(OSError, match="disk full"):
            write_student(from_config(**FRESH), teacher, 3, directory)
    assert not directory.exists()
    write_student(from_config(**FRESH), teacher, 3, directory)
    assert [path.name for path in tmp_path.iterdir()] == ["untrained"]
