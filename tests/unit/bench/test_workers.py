"""What one step of ``bench.workers`` leaves behind, for each commit or record."""

from __future__ import annotations

import json

import pytest

from bench.workers import RECORDED, Written


def test_what_was_written_is_for_each_commit() -> None:
    before = Written({"firehose": 1_000, "events": 500, "control": 70}, wal=10_000, transactions=5)
    after = Written({"firehose": 3_000, "events": 500, "control": 70}, wal=20_000, transactions=25)
    assert after.since(before, 1_000) == {
        "kafka": {"firehose": 2.0},
        "wal": 10.0,
        "transactions": 0.02,
    }


def test_the_recorded_figures_are_of_more_and_more_processes() -> None:
    steps = json.loads(RECORDED.read_text())["steps"]
    counts = [step["workers"] for step in steps]
    assert counts == sorted(set(counts))
    for step in steps:
        commit = step["commit"]
        assert sum(commit["us"].values()) == pytest.approx(commit["all_us"], rel=0.01)
        workers = [name for name in step["connections"] if name.startswith("worker-")]
        assert len(workers) == step["workers"]
