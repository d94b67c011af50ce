"""The catalogue: closed labels exist from the start, ages grow by themselves."""

from __future__ import annotations

import time

import pytest
from prometheus_client import generate_latest

from consumer import metrics
from consumer.errors import Reason


def test_closed_series_exist_before_anything_happened() -> None:
    text = generate_latest(metrics.REGISTRY).decode()
    for reason in Reason:
        for stage in metrics.Stage:
            assert f'chive_refused_total{{reason="{reason}",stage="{stage}"}}' in text


def test_every_name_is_ours_or_the_runtimes() -> None:
    names = {family.name for family in metrics.REGISTRY.collect()}
    assert all(name.startswith(("chive_", "python_", "process_")) for name in names)


def test_every_metric_is_documented() -> None:
    assert all(f.documentation for f in metrics.REGISTRY.collect() if f.name.startswith("chive_"))


def test_an_age_grows_until_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    age = metrics.Ages("chive_test_age_seconds", "for this test", "lane")
    try:
        age.since(100.0, 1)
        age.since(200.0, 2)
        age.settled(2)
        assert age.read(150.0) == {"1": 50.0, "2": 0.0}
        assert age.read(90.0) == {"1": 0.0, "2": 0.0}
        monkeypatch.setattr(time, "time", lambda: 160.0)
        assert b'chive_test_age_seconds{lane="1"} 60.0' in generate_latest(metrics.REGISTRY)
        age.drop(1)
        assert age.read(150.0) == {"2": 0.0}
    finally:
        metrics.REGISTRY.unregister(age)
