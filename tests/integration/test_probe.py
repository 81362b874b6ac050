"""`codec: auto`: a probe decides, once, and the run goes on with what it chose."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from .runs import RAY_WARNINGS, Distil, assert_each_step_once

pytestmark = [pytest.mark.ray, pytest.mark.slow, *RAY_WARNINGS]


def test_auto_gets_what_a_probe_recommends(
    one_teacher: None, make_job: Callable[..., Any], distil: Distil
) -> None:
    from raykd.evaluation.probe_table import as_yaml
    from raykd.pipeline.probe import Size, probe_job, read_probe
    from raykd.telemetry.progress import Progress

    changes = {"train.max_steps": 3, "checkpoint": {"every_steps": None}}
    job = make_job({**changes, "soft_targets": {"codec": "auto"}})
    ran = distil(job)
    assert_each_step_once(ran.root, 3, global_batch=4)
    found = read_probe(ran.root / "probe.json")
    best = found.recommended
    assert f"codec: auto is {as_yaml(best)}" in ran.printed
    assert ran.report.job["soft_targets"] == {
        **make_job({"soft_targets": best.settings}).soft_targets.model_dump(mode="json")
    }
    by_label = {one.label: one for one in found.codecs}
    # This vocabulary has 320 ids, so every log probability is a choice, and as good as itself.
    assert by_label["full bf16"].cosine == pytest.approx(1.0, abs=1e-3)
    assert by_label["hidden bf16"].cosine == pytest.approx(1.0, abs=1e-3)
    assert by_label["top_k 256 int8"].loss_gap <= 1e-3 * found.full_loss
    assert abs(by_label["sampled 100"].bias) < 0.05
    assert found.teacher_tokens_per_s > 0
    assert found.student_tokens_per_s > 0
    # What was decided stays, whatever another probe would say.
    (ran.root / "probe.json").write_text(
        found.model_copy(
            update={"recommended": best.model_copy(update={"settings": {"codec": "hidden"}})}
        ).model_dump_json()
    )
    again = distil(job, resume=True)
    assert again.report.job["soft_targets"]["codec"] == "hidden"

    said = io.StringIO()
    job = make_job({"name": "asked", "loss.divergence": "jsd"})
    progress = Progress(Console(file=said, width=80), job.name)
    file, probe = probe_job(job, progress, Size(rows=4, compared_tokens=50))
    progress.close()
    assert file == Path(job.storage_path) / ".probes" / "asked" / "probe.json"
    assert probe.rows == 4
    refused = {one.label for one in probe.codecs if one.refused is not None}
    assert refused == {"sampled 25", "sampled 50", "sampled 100"}
    assert probe.recommended.settings["codec"] != "sampled"
    assert not (Path(job.storage_path) / "asked").exists(), "a probe is no run"
