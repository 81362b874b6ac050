"""`stream.labels` says where loaders run; no Ray is started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.data

from raykd.config.train import StreamConfig
from raykd.data import stream


class Recorder:
    """Ray Data in words: which options reading and loading were given."""

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []

    def read_datasource(self, source: Any, **options: Any) -> Recorder:
        self.options.append(options)
        return self

    def map_batches(self, loader: Any, **options: Any) -> Recorder:
        self.options.append(options)
        return self


@pytest.mark.parametrize("labels", [{}, {"raykd-role": "data"}])
def test_loaders_and_reader_run_where_the_labels_are(
    labels: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(ray.data, "read_datasource", recorder.read_datasource)
    monkeypatch.setattr(stream.DataContext, "get_current", SimpleNamespace)

    source: Any = SimpleNamespace(layout=SimpleNamespace(num_blocks=3))
    stream._dataset(source, stream.BlockLoader, StreamConfig(labels=labels), 4)
    reading, loading = recorder.options
    assert reading.get("label_selector", {}) == labels
    assert loading.get("label_selector", {}) == labels
    assert reading["num_cpus"] == 0.05
    assert loading["num_cpus"] == 0.25
