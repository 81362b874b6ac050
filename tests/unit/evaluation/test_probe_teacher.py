"""What a probe says of the teacher, against its dense distribution."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probed_cases import make_probed

from raykd.evaluation.probe_teacher import teacher_found


def test_the_teacher_is_described_as_it_is(
    make_llama: Callable[..., Any], packed_rows: Callable[..., Any], tmp_path: Path
) -> None:
    rows, logprobs_MV = make_probed(make_llama, packed_rows, tmp_path)
    found = teacher_found(rows)
    p_MV = logprobs_MV.exp()
    entropy_M = -(p_MV * logprobs_MV).sum(1).numpy()
    assert found.entropy_mean == pytest.approx(entropy_M.mean(), rel=1e-4)
    assert found.entropy_median == pytest.approx(np.median(entropy_M), rel=1e-4)
    assert found.entropy_p95 == pytest.approx(np.quantile(entropy_M, 0.95), rel=1e-4)
    assert found.top1_mass == pytest.approx(p_MV.amax(1).mean().item(), rel=1e-4)
    assert list(found.mass_by_k) == [8, 16, 32, 64, 128, 256]
    for k, (mean, low) in found.mass_by_k.items():
        mass_M = p_MV.topk(k, 1).values.sum(1).numpy()
        assert mean == pytest.approx(mass_M.mean(), rel=1e-4)
        assert low == pytest.approx(np.quantile(mass_M, 0.05), rel=1e-3)
