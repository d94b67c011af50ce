"""The measure of a recovery."""

from __future__ import annotations

import pytest

from bench.recovering import Arrival, recovery

ENDED = 100.0


@pytest.mark.parametrize(
    ("arrivals", "seconds", "latest"),
    [
        ([], 0.0, 0.0),
        ([Arrival(90.0, 90.5), Arrival(101.0, 101.5)], 0.0, 0.5),
        ([Arrival(99.5, 100.5), Arrival(103.0, 103.5)], 0.5, 1.0),
        ([Arrival(80.0, 104.0), Arrival(101.0, 105.0), Arrival(104.0, 105.5)], 5.0, 24.0),
    ],
    ids=["nothing", "never late", "under way at the end", "late after the end too"],
)
def test_it_lasts_until_nothing_is_late(
    arrivals: list[Arrival], seconds: float, latest: float
) -> None:
    assert recovery(arrivals, ENDED) == (seconds, latest)
