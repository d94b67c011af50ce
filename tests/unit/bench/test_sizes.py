"""What was measured against sizes, as it is kept and drawn."""

from __future__ import annotations

from pathlib import Path

from bench import sizes
from bench.quiet import did_of
from procedures.syntax import is_did

ROOT = Path(__file__).parents[3]


def test_a_step_takes_the_place_of_the_earlier_one_and_others_stay() -> None:
    known = [{"at": 100, "floors": 8.0}, {"at": 10, "floors": 7.0}]
    found = [{"at": 1_000, "floors": 9.0}, {"at": 100, "floors": 8.5}]
    assert sizes.merged(known, found) == [
        {"at": 10, "floors": 7.0},
        {"at": 100, "floors": 8.5},
        {"at": 1_000, "floors": 9.0},
    ]
    assert sizes.merged([], found[1:]) == found[1:]


def test_every_axis_is_recorded_and_the_document_shows_the_plot() -> None:
    recorded = sizes.recorded()
    assert recorded.keys() == sizes.AXES.keys()
    for points in recorded.values():
        steps = [point["at"] for point in points]
        assert steps == sorted(set(steps))
        assert all(point["floors"] > 1 for point in points)
    assert "(cost-against-size.svg)" in (ROOT / "docs" / "performance.md").read_text()
    assert (ROOT / "docs" / "cost-against-size.svg").exists()


def test_quiet_accounts_have_dids_of_the_real_form() -> None:
    dids = {did_of(number) for number in range(100)}
    assert len(dids) == 100
    assert all(is_did(did) and len(did) == 32 for did in dids)
