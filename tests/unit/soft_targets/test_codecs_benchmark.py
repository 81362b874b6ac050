"""The arithmetic of benchmarks/codecs.py, against whole distributions in float64."""

import importlib.util
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from soft_target_cases import normal, some_labels

from raykd.soft_targets.reduction import encode_top_k

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Iterator[ModuleType]:
    """By its file: python has a module `codecs` of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        found = importlib.util.spec_from_file_location("codecs_benchmark", BENCHMARKS / "codecs.py")
        assert found is not None
        assert found.loader is not None
        module = importlib.util.module_from_spec(found)
        patch.setitem(sys.modules, "codecs_benchmark", module)
        found.loader.exec_module(module)
        yield module


def test_divergences_are_those_of_whole_distributions(benchmark: ModuleType) -> None:
    vocab_size, k = 12, 4
    logits_TV = normal(5, vocab_size).double()
    logits_TV[0, 2:] = -math.inf
    exact = encode_top_k(logits_TV, some_labels(5, vocab_size), k, (1.0,))
    # Kept values moved and turned round, ids with them.
    moved_TK = exact.logprobs_TK + 0.1 * normal(5, k, seed=3)
    moved = replace(exact, logprobs_TK=moved_TK.flip(1), ids_TK=exact.ids_TK.flip(1))

    log_p_TV = logits_TV.log_softmax(1)
    ids_TK = exact.ids_TK.long()
    spread_T1 = exact.log_tail_TN.double() - math.log(vocab_size - k)
    log_q_TV = spread_T1.expand(5, vocab_size).scatter(1, ids_TK, moved_TK.double())
    log_p_sum_T = torch.special.xlogy(log_p_TV.exp(), log_p_TV.exp()).sum(1)
    expected_T = log_p_sum_T - torch.where(log_p_TV > -math.inf, log_p_TV.exp() * log_q_TV, 0).sum(
        1
    )
    found_T = benchmark.kl_from_full(log_p_sum_T, exact, moved, vocab_size)
    torch.testing.assert_close(found_T, expected_T, rtol=0, atol=1e-6)

    kept_T = (log_p_TV - log_q_TV).gather(1, ids_TK).nan_to_num(posinf=0, neginf=0)
    kept_T = (kept_T * log_p_TV.gather(1, ids_TK).exp()).sum(1)
    torch.testing.assert_close(benchmark.added_kl(exact, moved), kept_T, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="other ids"):
        benchmark.added_kl(exact, replace(exact, ids_TK=exact.ids_TK + 1))


def test_rates_add_up_as_times_do(benchmark: ModuleType) -> None:
    assert benchmark.together(1000.0, 250.0) == pytest.approx(200.0)
