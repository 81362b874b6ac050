"""What models cost, and where they differ most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from token_cases import SPEC, bucket_kl, logits_of, scored_by

from raykd.evaluation import costs
from raykd.evaluation.inspection_data import BatchCost
from raykd.evaluation.kept import kept_of
from raykd.evaluation.token_scores import TokenScores, model_tokens
from raykd.evaluation.worst_rows import goes_on, next_tokens, told, worst_spots

VOCAB = 320


@pytest.fixture(scope="module")
def model(make_llama: Callable[..., Any]) -> Any:
    return make_llama(2)


def test_prompts_are_beginnings_without_padding() -> None:
    rows = [list(range(10 * i, 10 * i + n)) for i, n in enumerate([3, 9, 5, 7])]
    assert costs.prompts_of(rows, 4).tolist() == [
        [10, 11, 12, 13, 14],
        [20, 21, 22, 23, 24],
        [30, 31, 32, 33, 34],
        [10, 11, 12, 13, 14],
    ]
    assert costs.prompts_of([list(range(500))], 2).shape == (2, costs.LONGEST_PROMPT_TOKENS)


def test_written_tokens_are_the_likeliest(model: Any) -> None:
    prompts = torch.arange(5, 25).reshape(2, 10)
    written = costs.write_greedily(model, prompts, 6, VOCAB)
    whole = prompts
    with torch.no_grad():
        for _ in range(6):  # without a cache: the whole text again for each token
            following = model(input_ids=whole).logits[:, -1].argmax(1, keepdim=True)
            whole = torch.cat([whole, following], 1)
    assert written.tolist() == whole[:, 10:].tolist()


def test_costs_at_both_batch_sizes(model: Any) -> None:
    prompts = torch.arange(5, 5 + 80).reshape(8, 10)
    one, many = costs.costs_of(model, prompts, VOCAB)
    assert (one.batch, many.batch, many.prompt_tokens, many.new_tokens) == (1, 8, 10, 16)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    # At least a batch's hidden states and logits, at most everything ever made.
    assert weights + 8 * VOCAB * 4 < many.peak_bytes < weights + 20 * 2**20
    assert weights < one.peak_bytes < many.peak_bytes
    assert one.read_tokens_per_s > 0
    assert many.written_tokens_per_s > 0
    assert [cost.batch for cost in costs.costs_of(model, prompts[:1], VOCAB)] == [1]


def test_peak_by_hand() -> None:
    def act() -> None:
        first = torch.zeros(1000)
        second = first + 1
        del first
        torch.zeros(500)
        del second

    assert costs._peak_beyond_weights(act) == pytest.approx(8000, abs=256)


def test_context_is_not_left(make_llama: Callable[..., Any]) -> None:
    short = make_llama(1, max_position_embeddings=12)
    (cost,) = costs.costs_of(short, torch.arange(5, 15)[None], VOCAB)
    assert cost.new_tokens == 2


def test_the_worst_rows_come_first(
    model: Any, make_llama: Callable[..., Any], packed_rows: Callable[..., Any]
) -> None:
    teacher = make_llama(1, num_hidden_layers=3)
    rows = scored_by(teacher, packed_rows([[20], [9, 12], [15], [2], [18]]))
    student = model_tokens(model, rows, SPEC)
    spots = worst_spots(student, rows, SPEC)
    kl = [
        bucket_kl(p, q, SPEC.top_k)
        for p, q in zip(logits_of(teacher, rows), logits_of(model, rows), strict=True)
    ]
    # The fourth row has one token to learn: too few to be an example.
    assert {spot.row for spot in spots} == {0, 1, 2, 4}
    means = [kl[spot.row].mean().item() for spot in spots]
    assert means == sorted(means, reverse=True)
    for spot in spots:
        assert spot.kl_row == pytest.approx(kl[spot.row].mean().item(), rel=1e-4)
        assert spot.kl_there == pytest.approx(kl[spot.row].max().item(), rel=1e-4)
        # What was read is its own document up to there, as the models saw it.
        at = logits_of(model, rows)[spot.row][int(kl[spot.row].argmax())]
        with torch.no_grad():
            alone = model(input_ids=torch.tensor([spot.read])).logits[0, -1].double()
        assert alone.numpy() == pytest.approx(at.numpy(), abs=1e-4)
        ids = rows.column("input_ids")[spot.row].as_py()
        assert any(
            ids[i : i + len(spot.read) + 1] == [*spot.read, spot.follows] for i in range(len(ids))
        )
        theirs = logits_of(teacher, rows)[spot.row][int(kl[spot.row].argmax())].softmax(0)
        assert spot.teacher_ids == theirs.topk(3).indices.tolist()
        assert spot.teacher_probabilities == pytest.approx(theirs.topk(3).values.tolist(), rel=1e-4)
        following = next_tokens(model, spot, VOCAB)
        assert [i for i, _ in following] == at.topk(3).indices.tolist()
        assert goes_on(model, spot, VOCAB)[0] == following[0][0]


def test_text_is_told_or_left_out(model: Any, packed_rows: Callable[..., pa.Table]) -> None:
    rows = scored_by(model, packed_rows([[20]]))
    (spot,) = worst_spots(model_tokens(model, rows, SPEC), rows, SPEC)
    words = told(spot, "a:1", [(5, 0.5)], [6], [7, 8], lambda ids: "".join(f"<{i}>" for i in ids))
    assert (words.teacher_goes_on, words.student_goes_on) == ("<6>", "<7><8>")
    assert words.student_next[0].text == "<5>"
    silent = told(spot, "a:1", [(5, 0.5)], [6], [7, 8], None)
    assert silent.model_dump(exclude_defaults=True).keys() == {
        *("place", "tokens", "kl_to_teacher", "kl_there")
    }


class TestKept:
    def tokens(self, right: list[bool], nll: float) -> TokenScores:
        num = len(right)
        return TokenScores(
            np.zeros(num, dtype=np.int64), np.full(num, nll), np.ones(num), np.array(right)
        )

    def cost(self, rate: float) -> list[BatchCost]:
        return [
            BatchCost(
                batch=batch,
                prompt_tokens=1,
                new_tokens=1,
                read_tokens_per_s=1.0,
                written_tokens_per_s=rate * batch,
                peak_bytes=1,
            )
            for batch in (1, 8)
        ]

    def test_by_hand(self) -> None:
        by_role = {
            "teacher": self.tokens([True, True, True, True], 2.0),
            "untrained": self.tokens([False] * 4, 6.0),
            "student": self.tokens([True, True, True, False], 3.0),
        }
        kept = kept_of(by_role, {"teacher": self.cost(10.0), "student": self.cost(40.0)})
        assert kept.accuracy_kept == 0.75
        assert kept.gap_closed == 0.75
        assert kept.cost_ratio == 0.25

    def test_what_was_not_measured_is_none(self) -> None:
        kept = kept_of({"student": self.tokens([True], 1.0)}, {"student": self.cost(1.0)})
        assert kept.model_dump(exclude_none=True) == {}

    def test_no_gap(self) -> None:
        by_role = {
            role: self.tokens([True], nll)
            for role, nll in (("teacher", 2.0), ("untrained", 1.0), ("student", 1.5))
        }
        assert kept_of(by_role, {}).gap_closed is None


def test_the_median_of_several_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([9.0, 0.02, 0.01, 0.03, *[0.02] * 20])
    monkeypatch.setattr(costs, "seconds_of", lambda *_: next(times))
    here = torch.device("cpu")
    # Long passes are few; short ones are many, so that one that met a busy machine counts little.
    assert costs.median_seconds(here, lambda: None) == 0.02
    assert next(times) == 0.03
    assert costs.median_seconds(here, lambda: None) == 0.02
    assert len(list(times)) == 20 - costs.MOST_READS
