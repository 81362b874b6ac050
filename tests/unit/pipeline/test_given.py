"""Soft targets that an endpoint told, from its answers to the store; only Ray is missing."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raykd.config.job import Job
from raykd.data.prepare import open_rows, prepare
from raykd.errors import GenerationError, ModelError, TeacherError
from raykd.models.load import ModelSource
from raykd.pipeline.behind_endpoint import teacher_identity
from raykd.pipeline.choosing import choose
from raykd.pipeline.generating import as_learned
from raykd.pipeline.kept import Kept
from raykd.pipeline.laying_down import LaidDown, lay_down
from raykd.pipeline.models import Models, find_models
from raykd.pipeline.run_dir import RunDirectory
from raykd.pipeline.targets import heldout_spec, training_spec
from raykd.pipeline.writing import count_lacking, write
from raykd.soft_targets.codec import decode
from raykd.store.store import SoftTargetStore
from tests.endpoint_server import Served, serving
from tests.endpoint_writer import Writer

PROMPTS = 12
K = 8


def half_characters(prompt: str) -> str:
    """A text in which tokens are parts of characters."""
    return f"The {prompt} moves, müde 😀 and 中文."


def plain(prompt: str) -> str:
    return f"The {prompt} moves over a stone."


class Case:
    """A job, its run directory and its models, as tasks get them."""

    def __init__(self, job: Job, student: Path, vocab_size: int) -> None:
        self.job, self.run = job, RunDirectory.of(job)
        self.run.logs.mkdir(parents=True, exist_ok=True)
        source = ModelSource(str(student))
        self.models = Models(
            teacher=source,
            pretrained=source,
            num_tokens=vocab_size,
            vocab_size=vocab_size,
            teacher_vocab_size=vocab_size,
            teacher_hidden_size=32,
            teacher_identity=teacher_identity(job, source),
            tokenizer_identity="v",
            student_vocab_size=vocab_size,
            pad_id=0,
        )

    def chosen(self) -> dict[str, Any]:
        found = count_lacking(self.job, self.run, self.models)
        if found.lacking:
            write(self.job, self.run, self.models, None, found)
        return choose(self.job, self.run, self.models)

    def laid_down(self, tokenizer: Any) -> LaidDown:
        self.chosen()
        prepare(as_learned(self.job, self.run), tokenizer, self.run.data, self.run.logs)
        return lay_down(self.job, self.run, self.models, self.kept)

    @property
    def kept(self) -> Kept:
        found = Kept.of(self.job, self.models)
        assert found is not None
        return found

    def rows_and_targets(self, name: str) -> tuple[pa.Table, Any]:
        """All rows of a set, and what the store holds of them."""
        spec = (training_spec if name == "train" else heldout_spec)(self.job, self.models)
        rows = open_rows(self.run.data / name)
        table = rows.take(np.arange(rows.num_rows))
        store = SoftTargetStore.open(self.kept.location, self.kept.section(spec), write=False)
        return table, decode(store.read(table), spec)


MakeCase = Callable[..., Case]


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as server:
        yield server


@pytest.fixture
def case(
    make_job: Callable[..., Job],
    served: Served,
    tmp_path: Path,
    student_dir: Path,
    tiny_tokenizer: Any,
) -> MakeCase:
    source = tmp_path / "prompts.jsonl"
    texts = [f"river {i}" for i in range(PROMPTS)]
    source.write_text("".join(json.dumps({"q": text}) + "\n" for text in texts))

    def make(*, as_chat: bool = True, **changes: Any) -> Case:
        tree: dict[str, Any] = {
            "method": "logits",
            "data.corpus": {"source": str(source), "columns": {"prompt": "q"}},
            "generation": {"as_chat": as_chat, "sampling": {"max_new_tokens": 90}},
            "soft_targets": {"values": "fp32"},
            "evaluation": {"heldout_fraction": 0.2, "max_rows": 4},
            "teacher": {
                "engine": "openai",
                "model": "parrot",
                "endpoint": {"base_url": served.url, "top_logprobs": K},
            },
        }
        return Case(make_job({**tree, **changes}), student_dir, len(tiny_tokenizer))

    return make


def learned(rows: pa.Table) -> Iterator[tuple[list[int], list[int]]]:
    """Every piece with something to learn, and the places of it that are learned."""
    for row in rows.to_pylist():
        ids, positions, mask = row["input_ids"], row["position_ids"], row["loss_mask"]
        starts = [i for i, position in enumerate(positions) if position == 0]
        for a, b in zip(starts, [*starts[1:], len(ids)], strict=True):
            if any(mask[a:b]):
                yield ids[a:b], [i + 1 for i in range(b - a) if mask[a + i]]


def expected(rows: pa.Table, model: Any) -> torch.Tensor:
    """Float64 log probabilities of every learned token's place, by the model itself."""
    parts = []
    for ids, places in learned(rows):
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0].double()
        parts.append(logits[[place - 1 for place in places]].log_softmax(-1))
    return torch.cat(parts)


def labels(rows: pa.Table) -> torch.Tensor:
    return torch.tensor([ids[place] for ids, places in learned(rows) for place in places])


@pytest.mark.parametrize("as_chat", [True, False])
@pytest.mark.parametrize("as_ids", [True, False])
def test_the_store_has_what_the_model_says(
    as_chat: bool,
    as_ids: bool,
    case: MakeCase,
    served: Served,
    teacher_dir: Path,
    tiny_tokenizer: Any,
) -> None:
    # In a text's answers tokens are text, which half a character is not.
    text_of = half_characters if as_chat or as_ids else plain
    writer = Writer(teacher_dir, text_of, as_ids=as_ids)
    served.reply = writer
    one = case(as_chat=as_chat)
    done = one.laid_down(tiny_tokenizer)
    assert one.chosen()["kept"] == PROMPTS
    assert (done.documents, done.as_written) == (PROMPTS, PROMPTS)
    assert f"{PROMPTS} documents, {done.tokens} tokens" in done.sentence()
    for name in ("train", "heldout"):
        rows, targets = one.rows_and_targets(name)
        whole_TV, label_T = expected(rows, writer.model), labels(rows)
        end = label_T == tiny_tokenizer.convert_tokens_to_ids("<|end|>" if as_chat else "<eos>")
        assert_as_written(targets, label_T, end)
        chosen_TV, said = whole_TV[~end], ~end
        top = chosen_TV.topk(K)
        if as_chat or as_ids:
            assert torch.equal(targets.ids_TK[said].long(), top.indices)
            tail = torch.log1p(-top.values.exp().sum(1))
            assert_near(targets.logprobs_TK[said], top.values)
            assert_near(targets.log_tail_TN[said, 0], tail)
        else:
            assert_subset(targets.ids_TK[said], targets.logprobs_TK[said], chosen_TV)
        label_nats = chosen_TV.gather(1, label_T[said, None])[:, 0]
        assert_near(targets.label_logprobs_T[said], label_nats)


def assert_near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-4)


def assert_as_written(targets: Any, label_T: torch.Tensor, end_T: torch.Tensor) -> None:
    assert end_T.any()
    assert torch.equal(targets.ids_TK[end_T, 0].long(), label_T[end_T])
    assert (targets.logprobs_TK[end_T, 0] == 0).all()
    assert (targets.logprobs_TK[end_T, 1:] == -math.inf).all()
    assert (targets.log_tail_TN[end_T] == -math.inf).all()


def assert_subset(ids_TK: torch.Tensor, logprobs_TK: torch.Tensor, whole_TV: torch.Tensor) -> None:
    """What cannot be told apart is in the tail: all that is kept is right."""
    kept = logprobs_TK > -math.inf
    assert kept[:, 0].all()
    assert not kept.all()
    assert_near(logprobs_TK[kept], whole_TV.gather(1, ids_TK.long())[kept])


def test_the_end_is_the_endpoints_where_it_tells_it(
    case: MakeCase, served: Served, teacher_dir: Path, tiny_tokenizer: Any
) -> None:
    writer = Writer(teacher_dir, half_characters, as_ids=True, tells_end=True)
    served.reply = writer
    one = case()
    assert one.laid_down(tiny_tokenizer).as_written == 0
    rows, targets = one.rows_and_targets("train")
    top = expected(rows, writer.model).topk(K)
    assert torch.equal(targets.ids_TK.long(), top.indices)
    assert_near(targets.logprobs_TK, top.values)


def test_long_documents_are_divided_as_rows_are(
    case: MakeCase, served: Served, teacher_dir: Path, tiny_tokenizer: Any
) -> None:
    served.reply = Writer(teacher_dir, half_characters, as_ids=True)
    one = case(**{"data.sequence_length_tokens": 16})
    one.laid_down(tiny_tokenizer)
    rows, targets = one.rows_and_targets("train")
    assert len(labels(rows)) == targets.num_tokens
    assert torch.equal(
        targets.ids_TK[targets.label_logprobs_T == 0, 0].long(),
        labels(rows)[targets.label_logprobs_T == 0],
    )


def test_a_store_that_is_gone_is_filled_without_asking(
    case: MakeCase, served: Served, teacher_dir: Path, tiny_tokenizer: Any
) -> None:
    served.reply = Writer(teacher_dir, half_characters)
    one = case()
    one.laid_down(tiny_tokenizer)
    before = one.rows_and_targets("train")[1]
    asked = sum(served.asked.values())
    assert one.laid_down(tiny_tokenizer).documents == 0
    shutil.rmtree(one.kept.location)
    assert one.laid_down(tiny_tokenizer).documents == PROMPTS
    assert torch.equal(one.rows_and_targets("train")[1].logprobs_TK, before.logprobs_TK)
    assert sum(served.asked.values()) == asked == PROMPTS


def test_text_that_was_written_anew_is_not_taken_for_the_old(
    case: MakeCase, served: Served, teacher_dir: Path, tiny_tokenizer: Any
) -> None:
    served.reply = Writer(teacher_dir, half_characters)
    one = case()
    one.laid_down(tiny_tokenizer)
    shutil.rmtree(one.run.root.parent / ".generations")
    shutil.rmtree(one.kept.location)
    served.reply = Writer(teacher_dir, plain)
    with pytest.raises(GenerationError, match=r"remove generated\.json .* to choose again"):
        one.laid_down(tiny_tokenizer)
    one.run.generated_summary.unlink()
    assert one.laid_down(tiny_tokenizer).documents == PROMPTS


def test_what_only_the_teacher_was_told_keeps_targets_apart(case: MakeCase) -> None:
    chat = {"as_chat": True, "keep_system_prompt": False}
    told = [
        case(generation={**chat, "system_prompt": text}).kept.teacher for text in ("be brief", "no")
    ]
    assert len(set(told)) == 2
    assert all(":parrot@http" in one for one in told)


def test_other_tokens_are_dropped_and_kept_with_their_verdict(
    case: MakeCase, served: Served, teacher_dir: Path, tiny_tokenizer: Any
) -> None:
    writer = Writer(teacher_dir, half_characters)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        answer = writer(body)
        if body["messages"][-1]["content"] in ("river 3", "river 5"):
            content = answer["choices"][0]["logprobs"]["content"]
            content[2]["bytes"], content[2]["token"] = [120], "x"
        return answer

    served.reply = reply
    one = case()
    told = one.chosen()
    assert (told["kept"], told["dropped"]) == (PROMPTS - 2, {"same_tokens": 2})
    rows = pq.read_table(one.run.generated).to_pylist()
    verdicts = {row["prompt"]: row["verdict_same_tokens"] for row in rows}
    assert verdicts["river 4"] == "passed"
    assert verdicts["river 5"].startswith("token 2 is b'x' to the endpoint and b")
    assert one.laid_down(tiny_tokenizer).documents == PROMPTS - 2


def test_another_tokenizer_stops_the_run_with_an_example(
    case: MakeCase, served: Served, teacher_dir: Path
) -> None:
    writer = Writer(teacher_dir, plain)

    def by_characters(body: dict[str, Any]) -> dict[str, Any]:
        answer = writer(body)
        entry = answer["choices"][0]["logprobs"]["content"][0]
        text = answer["choices"][0]["message"]["content"]
        answer["choices"][0]["logprobs"]["content"] = [
            {**entry, "token": one, "bytes": list(one.encode())} for one in text
        ]
        return answer

    served.reply = by_characters
    one = case()
    with pytest.raises(GenerationError, match=r"of 12 completions 12 cannot be learned") as caught:
        one.chosen()
    shown = r"Prompt 0, 'The river 0 moves over a stone.': token \d is b'.' to the endpoint and b"
    assert re.search(shown, str(caught.value))
    assert "method: sequence" in str(caught.value)
    assert pq.read_table(one.run.generated).num_rows == PROMPTS


def test_masses_above_one_are_told(case: MakeCase, served: Served, teacher_dir: Path) -> None:
    writer = Writer(teacher_dir, plain)

    def reply(body: dict[str, Any]) -> dict[str, Any]:
        answer = writer(body)
        for entry in answer["choices"][0]["logprobs"]["content"]:
            for one in entry["top_logprobs"]:
                one["logprob"] = -0.5
        return answer

    served.reply = reply
    with pytest.raises(GenerationError, match=r"token 0: its log probabilities add up to 4\.85"):
        case().chosen()


def test_an_endpoint_that_tells_nothing_is_asked_once(
    case: MakeCase, served: Served, teacher_dir: Path
) -> None:
    writer = Writer(teacher_dir, plain)
    served.reply = lambda body: writer({**body, "logprobs": False})
    served.delay_s = 0.05
    one = case()
    with pytest.raises(TeacherError, match=r"top_logprobs: 8 were asked .* `method: sequence`"):
        one.chosen()
    # What was on its way beside it is paid for, and kept.
    assert sum(served.asked.values()) <= 8


def test_a_tokenizer_without_bytes_is_refused_before_anything_is_asked(
    case: MakeCase, served: Served, student_dir: Path, encoder_tokenizer: Any, tmp_path: Path
) -> None:
    other = tmp_path / "of-words"
    shutil.copytree(student_dir, other)
    encoder_tokenizer.save_pretrained(other)
    one = case(**{"student.init": {"start": "pretrained", "model": str(other)}})
    with pytest.raises(
        ModelError, match=r"top_logprobs: which bytes the tokens of .* cannot be told"
    ):
        find_models(one.job, one.run)
    assert find_models(case().job, one.run).vocab_size > 300
    assert not served.asked
