"""The report: both files, whatever was measured."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raykd.errors import RunError, StorageError
from raykd.evaluation.report import read_report, terminal_table, write_report
from raykd.evaluation.report_data import (
    HeldoutPoint,
    ModelFacts,
    ModelScores,
    Report,
    SetScores,
    heldout_curve,
    training_curve,
    training_totals,
)
from raykd.telemetry.metrics import HeldoutMetrics, StepMetrics
from raykd.telemetry.progress import StageTime

VOID = {"meta", "br", "img", "link", "input", "hr"}


def steps(num_steps: int) -> list[StepMetrics]:
    return [
        StepMetrics(
            step=n,
            epoch=0.0,
            row_start=4 * (n - 1),
            row_end=4 * n,
            tokens=100,
            tokens_seen=200,
            loss=4.0 / n,
            divergence=3.0 / n,
            cross_entropy=5.0 / n,
            lr=1e-4,
            grad_norm=1.0,
            seconds=2.0,
            wait_s=0.5,
            teacher_s=1.0,
            time=float(n),
            heldout=None
            if n % 10
            else HeldoutMetrics(kl=2.0 / n, top1_agreement=0.5, perplexity=20.0),
        )
        for n in range(1, num_steps + 1)
    ]


def report(num_steps: int = 40, **changed: Any) -> Report:
    metrics = steps(num_steps)
    half = ModelFacts(name="cut", parameters=50_000_000, bytes=200_000_000, dtype="float32")
    tree: dict[str, Any] = {
        "raykd_version": "0.1.0",
        "name": "quickstart",
        "job": {"name": "quickstart", "storage_path": "runs"},
        "started": "2026-03-02T10:00:00+00:00",
        "finished": "2026-03-02T10:06:36+00:00",
        "hardware": {"cpus": 2, "gpus": 0, "teacher": {"device": "CPU"}},
        "data": {
            "train": {
                "sentence": "83 documents became 1,920 rows.",
                "rows": 1920,
                "padding_share": 0.041,
            }
        },
        "models": {
            "teacher": ModelFacts(
                name="big", parameters=100_000_000, bytes=400_000_000, dtype="float32"
            ),
            "untrained": half,
            "student": half,
        },
        "evaluation": {
            "heldout": SetScores(
                rows=64,
                tokens=15904,
                top_k=256,
                models={
                    "student": ModelScores(
                        perplexity=21.7, kl_to_teacher=0.5, top1_agreement=0.643, tokens_per_s=4022
                    ),
                    "teacher": ModelScores(perplexity=12.4, tokens_per_s=1840),
                    "untrained": ModelScores(
                        perplexity=8421, kl_to_teacher=4.0, top1_agreement=0.02, tokens_per_s=4010
                    ),
                },
            )
        },
        "training": training_totals(metrics, replicas=1),
        "curve": training_curve(metrics, replicas=1),
        "heldout_curve": heldout_curve(metrics),
        "stages": [StageTime("prepare", 6.0), StageTime("train", 80.0)],
        "notes": ["49,152 ids compared, all alike."],
    }
    return Report(**{**tree, **changed})


def page(directory: Path, told: Report) -> str:
    write_report(directory, told)
    return (directory / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Collects addresses and tags, and checks that tags close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parsed(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


class TestFiles:
    def test_round_trip(self, tmp_path: Path) -> None:
        told = report()
        write_report(tmp_path, told)
        assert read_report(tmp_path) == told
        assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]

    def test_infinity_is_valid_json_and_comes_back(self, tmp_path: Path) -> None:
        scores = SetScores(
            rows=1, tokens=1, top_k=1, models={"student": ModelScores(perplexity=math.inf)}
        )
        told = report(evaluation={"heldout": scores})
        assert "∞" in page(tmp_path, told)
        text = (tmp_path / "report.json").read_text()
        json.loads(text, parse_constant=pytest.fail)
        assert read_report(tmp_path) == told

    def test_the_old_report_stays_until_the_new_one_is_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_report(tmp_path, report())
        before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            write_report(tmp_path, report(name="other"))
        assert {name: (tmp_path / name).read_bytes() for name in before} == before

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match="no such report"):
            read_report(tmp_path)
        with pytest.raises(StorageError, match="cannot be written"):
            write_report(tmp_path / "nowhere", report())

    def test_not_a_report(self, tmp_path: Path) -> None:
        (tmp_path / "report.json").write_text("{}")
        with pytest.raises(RunError, match="not a report"):
            read_report(tmp_path)


class TestPage:
    def test_self_contained(self, tmp_path: Path) -> None:
        text = page(tmp_path, report(job={"source": "https://example.org/x"}))
        tags = parsed(text)
        assert tags.addresses == []
        assert not tags.seen & {"script", "link", "img", "iframe"}
        assert not re.search(r"url\(|@import", text)

    def test_every_text_is_escaped(self, tmp_path: Path) -> None:
        bad = "<script>alert(1)</script>"
        facts = ModelFacts(name=bad, parameters=1, bytes=1, dtype=bad)
        scores = SetScores(rows=1, tokens=1, top_k=1, models={bad: ModelScores(perplexity=1.0)})
        told = report(
            name=bad,
            raykd_version=bad,
            started=bad,
            job={bad: bad},
            hardware={bad: bad},
            data={bad: {"sentence": bad, bad: bad}},
            models={"teacher": facts, bad: facts},
            evaluation={bad: scores},
            stages=[StageTime(bad, 1.0)],
            notes=[bad],
        )
        text = page(tmp_path, told)
        assert "<script" not in text
        assert "&lt;script&gt;" in text
        parsed(text)

    def test_numbers(self, tmp_path: Path) -> None:
        text = page(tmp_path, report())
        for shown in (
            "A student 50 % smaller than its teacher, and 88 % closer to it than at its start.",
            "100M → 50.0M parameters, 400 MB → 200 MB",
            "4.00 → 0.500 nats a token",
            "64 %",
            "with the teacher; 2.0 % before",
            "teacher 12.4, untrained 8,421",
            "4.02k",
            "64 rows, 15,904 tokens",
            "2 March 2026, 10:06 UTC · took 6m 36s",
            "83 documents became 1,920 rows.",
            "49,152 ids compared, all alike.",
            "<dt>padding share</dt><dd>4.1 %</dd>",
            "storage_path: runs",
            "lower bound of the full KL",
            "K = 256",
            "measured through its service",
            "learning <b>75 %</b>",
            "waiting for the teacher <b>25 %</b>",
            "held back by the student <b>50 %</b>",
            "prepare <b>6.0s</b>",
        ):
            assert shown in text.replace("&#39;", "'"), shown

    def test_models_stand_in_order(self, tmp_path: Path) -> None:
        text = page(tmp_path, report())
        table = text[text.index("<h2>Quality") : text.index("<h2>Models")]
        rows = re.findall(r'<tr class="(\w+)"', table)
        assert rows == ["teacher", "untrained", "student"]

    def test_plots(self, tmp_path: Path) -> None:
        text = page(tmp_path, report())
        assert text.count("<svg") == 4
        assert "log scale" not in text

    def test_held_out_on_a_log_scale(self, tmp_path: Path) -> None:
        points = [
            HeldoutPoint(step=n, kl=kl, top1_agreement=0.5, perplexity=20.0)
            for n, kl in ((0, 4.0), (10, 0.1))
        ]
        assert "log scale" in page(tmp_path, report(heldout_curve=points))

    @pytest.mark.parametrize("num_steps", [0, 1, 2])
    def test_few_steps(self, tmp_path: Path, num_steps: int) -> None:
        text = page(tmp_path, report(num_steps))
        parsed(text)
        assert text.count("<svg") == (3 if num_steps else 0)
        assert "evaluation.every_steps" in text
        assert "nan" not in text.lower().replace("&", "")

    def test_nothing_but_a_name(self, tmp_path: Path) -> None:
        told = Report(
            raykd_version="0.1.0",
            name="bare",
            job={},
            started="",
            finished="",
            hardware={},
            data={},
            models={},
            evaluation={},
        )
        assert "A distilled student." in page(tmp_path, told)
        parsed(page(tmp_path, told))
        assert read_report(tmp_path) == told

    def test_no_teacher(self, tmp_path: Path) -> None:
        alone = [replace(m, teacher_s=0.0, wait_s=0.0, divergence=None) for m in steps(3)]
        totals = training_totals(alone, replicas=0)
        told = report(training=totals, curve=training_curve(alone, replicas=0))
        text = page(tmp_path, told)
        assert "The teacher was not asked while the student trained." in text
        assert "scoring" not in text
        assert "teacher, while busy" not in text

    def test_worse_is_said(self, tmp_path: Path) -> None:
        scores = {
            role: ModelScores(perplexity=10.0, kl_to_teacher=kl, top1_agreement=top1)
            for role, kl, top1 in (("untrained", 1.0, 0.5), ("student", 1.5, 0.4))
        }
        told = report(evaluation={"s": SetScores(rows=1, tokens=1, top_k=1, models=scores)})
        text = page(tmp_path, told)
        assert "50 % further from it" in text
        assert text.count("value bad") == 2


class TestTerminalTable:
    def shown(self, told: Report) -> str:
        console = Console(file=StringIO(), width=80)
        console.print(terminal_table(told))
        assert isinstance(console.file, StringIO)
        return console.file.getvalue()

    def test_fits_80_columns(self) -> None:
        shown = self.shown(report())
        assert all(len(line) <= 80 for line in shown.splitlines())
        for text in (
            "heldout",
            "untrained",
            "8,421",
            "0.500",
            "64 %",
            "4.02k",
            "200 MB",
            "K = 256",
        ):
            assert text in shown

    def test_names_are_not_markup(self) -> None:
        assert "[red]x" in self.shown(report(name="[red]x"))


def test_totals_by_hand() -> None:
    totals = training_totals(steps(10), replicas=1)
    assert (totals.steps, totals.rows, totals.tokens, totals.tokens_seen) == (10, 40, 1000, 2000)
    assert (totals.seconds, totals.tokens_per_s, totals.final_loss) == (20.0, 100.0, 0.4)
    assert (totals.wait_share, totals.teacher_busy_share) == (0.25, 0.5)
    assert totals.teacher_held_back_share == 0.5
    assert totals.teacher_tokens_per_s == 200.0
    assert [p.step for p in heldout_curve(steps(25))] == [10, 20]
