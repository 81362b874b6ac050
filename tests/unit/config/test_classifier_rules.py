"""What a classifier's job may say, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.config.job import Job
from raykd.config.load import dump_job, load_job
from raykd.errors import JobError


@pytest.fixture
def tree(job_tree: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {
        **job_tree,
        "method": "classifier",
        "classifier": {"task": "single_label"},
        "soft_targets": {},
        "loss": {"alpha": 0.5, "temperature": 2.0},
        "evaluation": {},
    }
    tree["data"] = {
        "corpus": {"source": "x.jsonl", "columns": {"text": "text", "label": "y"}},
        "sequence_length_tokens": 64,
        "packing": "pad",
        "long_documents": "cut",
    }
    return tree


def complaint(write_job: Callable[..., Path], tree: dict[str, Any], *overrides: str) -> str:
    with pytest.raises(JobError) as caught:
        load_job(write_job(tree), list(overrides))
    return str(caught.value)


def test_a_job_comes_back_as_it_was_saved(
    tree: dict[str, Any], write_job: Callable[..., Path], tmp_path: Path
) -> None:
    job = load_job(write_job(tree), [])
    (tmp_path / "saved.yaml").write_text(dump_job(job))
    assert load_job(tmp_path / "saved.yaml", []) == job


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("classifier=null", "needs to know what is learned"),
        ("data.packing=pack", "data.packing: an encoder reads one document a row"),
        ("data.long_documents=split", "a part of a document need not have its label"),
        ("data.corpus.columns={text: text}", "learns from labels; name their column"),
        ("data.corpus.columns={prompt: a, completion: b}", "a classifier reads `text`"),
        ("teacher.tensor_parallel=2", "an encoder is not sharded"),
        ("teacher={model: x, engine: vllm}", "vllm cannot classify"),
        ("teacher.engine=none", "`loss.alpha: 1` to learn from the labels alone"),
        ("soft_targets.top_k=8", "soft_targets.top_k: a classifier's outputs travel whole"),
        ("loss.divergence=jsd", "loss.divergence: a classifier's outputs travel whole"),
        ("loss.token_weights.position_ramp_tokens=3", "loss.token_weights"),
        ("evaluation.every_steps=5", "measured before and after its training only"),
        ("student.lora={}", "adapters of encoders are not built"),
        ("classifier.labels=[a, a]", "each may be named once"),
        ("classifier.labels=[a]", "needs two or more"),
        ("classifier={task: regression, labels: [a, b]}", "`task: regression` has none"),
        ("classifier={task: regression}", "has no probabilities to soften"),
        ("classifier={task: embedding}", "vectors have no hard labels"),
        ("classifier={task: embedding, cosine: 1}", "compares already"),
        ("classifier={task: single_label, pooling: cls}", "are for `task: embedding`"),
        ("classifier={task: regression, when_teacher_is_wrong: drop}", "never simply wrong"),
        ("classifier={task: masked}", "columns.label: `task: masked` learns from the text alone"),
        ("classifier={task: masked, labels: [a, b]}", "`task: masked` has none"),
        ("classifier={task: masked, when_teacher_is_wrong: drop}", "never simply wrong"),
        (
            "classifier={task: masked, mask_fraction: 1.0}",
            "mask_fraction: input should be less than 1",
        ),
        ("classifier.mask_fraction=0.2", "mask_fraction and maskings are for `task: masked`"),
        ("classifier.maskings=2", "mask_fraction and maskings are for `task: masked`"),
    ],
)
def test_what_does_not_go_together(
    tree: dict[str, Any], write_job: Callable[..., Path], override: str, said: str
) -> None:
    if override.startswith("student"):
        tree["student"]["init"] = {"start": "pretrained", "model": "x"}
    assert said in complaint(write_job, tree, override)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("classifier.cosine=1", "no teacher is learned from"),
        ("classifier.when_teacher_is_wrong=drop", "no teacher is learned from"),
        ("soft_targets.store_mode=fill", "nothing"),
        ("teacher.replicas=2", "teacher.replicas: with `engine: none` no teacher runs"),
    ],
)
def test_nobody_is_asked_and_nothing_hangs_on_it(
    tree: dict[str, Any], write_job: Callable[..., Path], override: str, said: str
) -> None:
    tree["loss"] = {"alpha": 1.0}
    tree["teacher"] = {"model": "x", "engine": "none"}
    assert not load_job(write_job(tree), []).teacher.is_asked
    assert said in complaint(write_job, tree, override)


def test_other_methods_have_no_classifier(
    job_tree: dict[str, Any], write_job: Callable[..., Path], make_job: Callable[..., Job]
) -> None:
    assert "does not look at it" in complaint(write_job, job_tree, "classifier={task: tokens}")
    assert "ask their teacher" in complaint(write_job, job_tree, "teacher.engine=none")
    assert make_job().classifier is None
    job_tree["data"]["corpus"]["label_from_folder"] = True
    assert "label_from_folder are for `method: classifier`" in complaint(write_job, job_tree)


@pytest.fixture
def masked(tree: dict[str, Any]) -> dict[str, Any]:
    tree["classifier"] = {"task": "masked", "cosine": 1.0, "maskings": 4}
    tree["data"]["corpus"]["columns"] = {"text": "text"}
    tree["soft_targets"] = {"top_k": 16, "values": "fp32", "temperatures": [4.0]}
    tree["loss"]["divergence"] = "jsd"
    return tree


def test_masked_tokens_have_codec_and_divergence(
    masked: dict[str, Any], write_job: Callable[..., Path]
) -> None:
    job = load_job(write_job(masked), [])
    assert job.soft_targets.top_k == 16
    assert job.temperatures == (1.0, 4.0, 2.0)


NOBODY = "teacher={model: x, engine: none}"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("soft_targets={codec: sampled}", "codec: sampled; the distributions of `task: masked`"),
        ("soft_targets={codec: sampled, draws: 9}", "draws: masked tokens travel by codec top_k"),
        ("soft_targets={codec: hidden}", "codec: hidden; the distributions of `task: masked`"),
        ("soft_targets={codec: auto}", "codec: auto; the distributions of `task: masked`"),
        ("soft_targets={codec: full}", "hidden states travel beside the likeliest ids"),
        ("loss.token_weights.position_ramp_tokens=3", "every masked token counts alike"),
        ("loss={alpha: 1.0}", "soft_targets.top_k: with `loss.alpha: 1` or"),
        ("data.long_documents=split", "data.long_documents"),
        (NOBODY, "`teacher.engine: none` no distributions are learned"),
        ("data.packing=pack", "one document a row"),
    ],
)
def test_what_masked_tokens_do_not_go_with(
    masked: dict[str, Any], write_job: Callable[..., Path], override: str, said: str
) -> None:
    if override == NOBODY:
        masked["classifier"]["cosine"] = 0.0
        masked["loss"]["alpha"] = 1.0
    assert said in complaint(write_job, masked, override)
