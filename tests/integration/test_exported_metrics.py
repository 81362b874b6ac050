"""What a run shows to Prometheus, as Ray exports it for real."""

from __future__ import annotations

import re
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raykd.telemetry.names import METRICS, exported

from .runs import RAY_WARNINGS, Distil

pytestmark = [pytest.mark.ray, pytest.mark.cluster, *RAY_WARNINGS]

QUIET_RUN_LACKS = {
    "raykd_teacher_requests_lost_total",
    "raykd_teacher_requests_refused_total",
    "raykd_student_restarts_total",
    "raykd_student_rank_failures_total",
}
SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "raykd.json"


@pytest.fixture(scope="module")
def ray_environment() -> dict[str, str]:
    return {"RAY_metrics_report_interval_ms": "500"}


class Scraper:
    """Keeps the latest sum of each metric of one run, and the names of all metrics."""

    def __init__(self) -> None:
        import ray

        port = ray.nodes()[0]["MetricsExportPort"]
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._body, daemon=True)
        self.sums: dict[str, float] = {}
        self.names: set[str] = set()

    def __enter__(self) -> Scraper:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        self._thread.join(timeout=30)
        time.sleep(1.5)
        self.look()

    def _body(self) -> None:
        while not self._ended.wait(0.5):
            self.look()

    def look(self) -> None:
        with urllib.request.urlopen(self._url, timeout=10) as answer:
            text = answer.read().decode()
        now: dict[str, float] = {}
        for name, labels, value in SAMPLE.findall(text):
            self.names.add(name)
            if 'run="tiny"' in labels:
                now[name] = now.get(name, 0.0) + float(value)
        self.sums |= now


def test_a_run_shows_its_figures(make_job: Callable[..., Any], distil: Distil) -> None:
    from raykd.errors import ResourceError

    changes = {
        "data.corpus.max_documents": 40,
        "train.epochs": 2,
        "train.max_steps": None,
        "evaluation.every_steps": 4,
        "checkpoint.every_steps": 4,
    }
    with Scraper() as seen:
        ran = distil(make_job(changes))
        with pytest.raises(ResourceError):
            distil(make_job(changes | {"student.cpus_per_worker": 64}), resume=True)
    ours = {name for name in seen.sums if name.startswith("ray_raykd_")}
    wanted = {exported(metric) for name, metric in METRICS.items() if name not in QUIET_RUN_LACKS}
    assert ours == wanted
    of_rays = set(re.findall(r"\bray_\w+", DASHBOARD.read_text())) - {"ray_raykd_"}
    assert {name for name in of_rays if not name.startswith("ray_raykd_")} <= seen.names

    steps, last = ran.steps, ran.steps[-1]

    def value(name: str) -> float:
        return seen.sums[f"ray_raykd_{name}"]

    assert value("steps_total") == len(steps)
    assert value("student_tokens_total") == sum(step["tokens_seen"] for step in steps)
    assert value("student_wait_seconds_total") == pytest.approx(sum(s["wait_s"] for s in steps))
    assert value("step") == value("steps_planned") == value("checkpoint_step") == len(steps)
    assert value("checkpoint_row") == last["row_end"]
    assert value("loss") == pytest.approx(last["loss"])
    assert value("heldout_kl") == pytest.approx(last["heldout"]["kl"])
    assert value("progress_timestamp_seconds") == pytest.approx(last["time"])
    assert value("training") == 0
    assert value("teacher_replicas_running") == value("teacher_replicas_limit") == 1
    assert value("run_failures_total") == 1
    rows = value("soft_target_rows_total")
    assert rows >= last["row_end"] + ran.report.data["heldout"]["rows"]
    # The second epoch comes from the store.
    assert 0 < value("teacher_rows_total") < rows
    assert 0 < value("teacher_bytes_total") < value("soft_target_bytes_total")
    hits = value("store_hit_rows_total")
    assert hits + value("store_missed_rows_total") == pytest.approx(rows, abs=4)
