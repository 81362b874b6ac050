"""Whether a job's inner states can be compared is known from configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from transformers import GPT2Config

from raykd.errors import ModelError
from raykd.models.load import ModelSource
from raykd.pipeline import plan
from raykd.pipeline.aligned import alignment_of
from raykd.pipeline.models import Models
from raykd.pipeline.targets import states_spec
from raykd.pipeline.with_states import training_columns
from raykd.soft_targets.spec import CodecSpec

MakeJob = Callable[..., Any]
BOTH = {"representations": {"layers": {1: 3}, "hidden": {}, "attention": {"relations": ["key"]}}}


def models_of(job: Any, teacher: Any, student: Any) -> Models:
    return Models(
        teacher=ModelSource("teacher"),
        pretrained=None,
        num_tokens=320,
        vocab_size=320,
        teacher_vocab_size=320,
        teacher_hidden_size=32,
        teacher_identity="weights",
        tokenizer_identity="tokens",
        student_vocab_size=320,
        pad_id=0,
        alignment=alignment_of(job, teacher, student),
    )


def names(columns: Sequence[pa.Field]) -> list[str]:
    return [field.name for field in columns]


def test_what_a_job_asks_its_teacher_for(make_job: MakeJob, llama_config: Any) -> None:
    job = make_job(BOTH)
    models = models_of(job, llama_config(num_hidden_layers=4), llama_config(hidden_size=16))
    spec = states_spec(job, models)
    assert spec is not None
    assert (spec.state_layers, spec.attention_layer) == ((3,), 3)
    assert (spec.hidden_size, spec.attention_widths) == (32, (("key", 16),))
    both = names(training_columns(job, models))
    assert both[0] == "target_stamp"
    assert both[-3:] == ["state_stamp", "state_hidden_3", "state_key"]
    alone = make_job({**BOTH, "method": "representations", "soft_targets": {}})
    assert names(training_columns(alone, models)) == both[-3:]
    other = make_job({**BOTH, "teacher.dtype": "bf16"})
    assert states_spec(other, models) != spec, "another teacher's"


def test_without_the_section_nothing_travels(make_job: MakeJob, llama_config: Any) -> None:
    job = make_job()
    models = models_of(job, llama_config(), llama_config())
    assert models.alignment is None
    assert states_spec(job, models) is None
    assert "state_stamp" not in names(training_columns(job, models))


def test_attention_alone_carries_no_hidden_states(make_job: MakeJob, llama_config: Any) -> None:
    job = make_job({"representations": {"attention": {}}})
    spec = states_spec(job, models_of(job, llama_config(num_hidden_layers=4), llama_config()))
    assert spec is not None
    assert (spec.state_layers, spec.attention_layer) == ((), 3)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ({2: 3}, "the student has layers 0 to 1, the teacher 0 to 3"),
        ({1: 4}, "the student has layers 0 to 1, the teacher 0 to 3"),
    ],
)
def test_a_layer_map_that_does_not_fit(
    layers: Any, said: str, make_job: MakeJob, llama_config: Any
) -> None:
    job = make_job({"representations": {"layers": layers, "hidden": {}}})
    with pytest.raises(ModelError, match=said):
        alignment_of(job, llama_config(num_hidden_layers=4), llama_config())


def test_a_side_without_projections_of_their_own(make_job: MakeJob, llama_config: Any) -> None:
    fused = GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=64)
    job = make_job({"representations": {"attention": {"heads": 2}}})
    with pytest.raises(ModelError, match=r"^student\.init: representations\.attention: GPT2Block"):
        alignment_of(job, llama_config(), fused)
    with pytest.raises(ModelError, match=r"^teacher\.model: "):
        alignment_of(job, fused, llama_config())
    hidden = make_job({"representations": {"hidden": {}}})
    assert alignment_of(hidden, fused, llama_config()) is not None


def test_states_take_their_room_in_the_object_store(make_job: MakeJob) -> None:
    states = CodecSpec(
        "states",
        320,
        hidden_size=4096,
        state_layers=(1, 3),
        attention_layer=3,
        attention_widths=(("query", 4096), ("key", 1024)),
    )
    assert plan.token_bytes(states) == 13 + 2 * (2 * 4096 + 4096 + 1024)
    job, codec = make_job(), CodecSpec("top_k", 320, top_k=8)
    stores = [64e6]
    without = plan.object_store_bytes(job, codec, stores)
    assert without == 16e6
    with_states = plan.object_store_bytes(job, codec, stores, states)
    # six requests and ranks' blocks of 8 rows of 64 tokens, but at most half of the store
    assert with_states == 32e6
    small = replace(states, hidden_size=1024, attention_layer=None, attention_widths=())
    blocks = plan.requests_in_flight(job) + 2
    needed = blocks * 64 * 4 * job.stream.steps_per_block
    needed *= plan.token_bytes(codec) + plan.token_bytes(small)
    assert plan.object_store_bytes(job, codec, stores, small) == min(max(needed, 16e6), 32e6)
