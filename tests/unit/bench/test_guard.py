"""What the guard of the benchmark lets pass."""

from __future__ import annotations

import json

from bench import guard

REPORT = {
    "pure": {"ratio": 3.5},
    "network": {
        "steps": {
            "commits-1": {"floors": 12.0, "lags": None},
            "rate-200": {"floors": 80.0, "lags": [40.0, 90.0]},
            "rate-2000": {"floors": 9.0, "lags": [900.0, 1_100.0]},
        }
    },
}


def test_a_report_tells_its_ratios_without_rates_that_the_machine_did_not_keep_up_with() -> None:
    assert guard.ratios(REPORT) == {"verify": 3.5, "commits-1": 12.0, "rate-200": 80.0}


def test_the_median_of_the_runs_counts() -> None:
    runs = [{"verify": ratio} for ratio in (3.0, 9.0, 4.0, 3.5, 3.4)]
    runs[0]["rate-200"] = runs[1]["rate-200"] = 80.0
    assert guard.medians(runs) == {"verify": 3.5}


def test_a_quarter_more_passes_and_anything_beyond_does_not() -> None:
    recorded = {"verify": 4.0, "commits-1": 10.0}
    assert guard.worse(recorded, {"verify": 5.0, "commits-1": 2.0}) == []
    assert guard.worse(recorded, {"verify": 5.1, "commits-1": 12.6}) == ["verify", "commits-1"]


def test_what_is_no_longer_measured_is_noticed() -> None:
    assert guard.worse({"verify": 4.0}, {}) == ["verify"]


def test_the_recorded_ratios_can_be_compared() -> None:
    recorded = json.loads(guard._RECORDED.read_text())
    assert recorded["core"] == "compiled"
    assert {"verify", "sync-1", "commits-1", "commits-2"} <= set(recorded["floors"])
    assert guard.worse(recorded["floors"], recorded["floors"]) == []
