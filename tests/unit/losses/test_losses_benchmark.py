"""The benchmark of the losses: its arithmetic, and that every row of raykd's runs."""

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("losses")
    sys.path.remove(str(BENCHMARKS))


def test_ratios_are_of_medians_to_naive_and_to_half_the_tokens(benchmark: Any) -> None:
    def case(row: str, tokens: int, *measured: tuple[float, float]) -> dict[str, Any]:
        each = [{"cpu_s": cpu_s, "peak_mib": peak_mib} for cpu_s, peak_mib in measured]
        return benchmark.summary(benchmark.Case(row, "bf16", tokens), each)

    results = [
        case(benchmark.NAIVE, 512, (4.0, 900.0), (5.0, 1000.0), (40.0, 1000.0)),
        case("raykd", 512, (4.0, 100.0)),
        case("raykd", 1024, (8.0, 103.0)),
        benchmark.summary(benchmark.Case("peer", "bf16", 512), [{"missing": "no peer"}]),
    ]
    benchmark.add_ratios(results)
    assert results[0]["cpu_s_range"] == [4.0, 40.0]
    assert results[1]["cpu_ratio"] == pytest.approx(0.8)
    assert results[1]["memory_ratio"] == pytest.approx(0.1)
    assert "cpu_ratio" not in results[2]
    assert results[2]["peak_over_half_the_tokens"] == pytest.approx(1.03)
    assert results[3]["missing"] == "no peer"


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_rows_run(benchmark: Any, dtype: str) -> None:
    arguments = argparse.Namespace(threads=1, peers=None, width=64, vocab=500)
    for row in benchmark.ROWS:
        if row.split()[0] in ("TRL", "Liger"):
            continue
        found = benchmark.measure(benchmark.Case(row, dtype, 16), arguments)
        assert found["cpu_s"] >= 0
        assert found["peak_mib"] >= 0
