from __future__ import annotations

from consumer import metrics
from consumer.lanes.backlog import Backlog

LANE = 991


def depth() -> float | None:
    return metrics.REGISTRY.get_sample_value("chive_outbox_depth", {"lane": str(LANE)})


def age(now: float) -> float | None:
    return metrics.OUTBOX_AGE.read(now).get(str(LANE))


def test_depth_and_age_follow_what_waits() -> None:
    backlog = Backlog(LANE)
    backlog.shrinks(10)
    assert (depth(), age(100.0)) == (0, 0)
    backlog.grows(15, 100.0)
    backlog.grows(20, 105.0)
    assert (depth(), age(110.0)) == (10, 10.0)
    backlog.shrinks(14)
    assert (depth(), age(110.0)) == (6, 10.0)
    backlog.shrinks(15)
    assert (depth(), age(110.0)) == (5, 5.0)
    backlog.grows(18, 106.0)  # read again from Postgres: known already
    assert (depth(), age(110.0)) == (5, 5.0)
    backlog.shrinks(20)
    assert (depth(), age(110.0)) == (0, 0)
    backlog.end()
    assert (depth(), age(110.0)) == (None, None)
