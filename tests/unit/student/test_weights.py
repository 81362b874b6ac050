"""How much each token counts: by hand, and against plain arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raykd.config.loss import TokenWeights
from raykd.models.batch import Batch
from raykd.student.weights import token_weights


def batch_at(positions: list[int], kept: list[int]) -> Batch:
    ids = torch.zeros(1, len(positions), dtype=torch.int64)
    return Batch(ids, torch.tensor([positions]), torch.tensor(kept), torch.zeros(len(kept)).long())


def test_all_tokens_count_alike_unless_asked() -> None:
    assert token_weights(batch_at([0, 1], [0]), None, TokenWeights()) is None


def test_weights_of_position_and_confidence() -> None:
    batch = batch_at([0, 1, 2, 3, 4, 0, 1], [0, 3, 4, 5])
    ramp = token_weights(batch, None, TokenWeights(position_ramp_tokens=4))
    assert ramp is not None
    assert ramp.tolist() == [0.25, 1.0, 1.0, 0.25]
    sure = torch.tensor([0.5, 0.25, 1.0, 0.0]).log()
    both = token_weights(batch, sure, TokenWeights(position_ramp_tokens=4, teacher_confidence=2.0))
    assert both is not None
    assert both.tolist() == pytest.approx([0.25 * 0.25, 0.0625, 1.0, 0.0])


def test_a_document_that_the_teacher_contradicts_is_left_out() -> None:
    # Two documents of three and of two learned tokens.
    batch = batch_at([0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 4, 5])
    of_tokens = torch.tensor([0.9, 0.01, 0.9, 0.2, 0.2]).log()
    # Geometric means: (0.9 * 0.01 * 0.9) ** (1 / 3) = 0.2008..., and 0.2.
    weights = TokenWeights(drop_documents_below=0.2005)
    assert token_weights(batch, of_tokens, weights).tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
    stricter = TokenWeights(drop_documents_below=0.21)
    assert token_weights(batch, of_tokens, stricter).tolist() == [0.0] * 5


def test_documents_end_with_their_rows() -> None:
    """A later part of a split document begins at position 0, as does what follows padding."""
    ids = torch.zeros(2, 4, dtype=torch.int64)
    positions = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])
    keep = torch.tensor([0, 1, 2, 4])
    batch = Batch(ids, positions, keep, torch.zeros(4).long())
    generator = torch.Generator().manual_seed(3)
    sure = torch.rand(4, generator=generator).double()
    first, second = sure[:3].log().mean().exp().item(), sure[3].item()
    threshold = math.sqrt(first * second)
    found = token_weights(batch, sure.log(), TokenWeights(drop_documents_below=threshold))
    expected = np.array([first] * 3 + [second]) >= threshold
    assert found.tolist() == expected.astype(float).tolist()
    assert set(found.tolist()) == {0.0, 1.0}


def test_both_ways_to_doubt_go_together() -> None:
    batch = batch_at([0, 1, 0, 1], [0, 2])
    sure = torch.tensor([0.5, 0.1]).log()
    weights = TokenWeights(teacher_confidence=1.0, drop_documents_below=0.3)
    assert token_weights(batch, sure, weights).tolist() == pytest.approx([0.5, 0.0])
