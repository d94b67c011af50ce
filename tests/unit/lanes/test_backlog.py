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
    backlog.published(10)
    assert (depth(), age(100.0)) == (0, 0)
    backlog.decided(15, 100.0)
    backlog.decided(20, 105.0)
    assert (depth(), age(110.0)) == (10, 10.0)
    backlog.published(14)
    assert (depth(), age(110.0)) == (6, 10.0)
    backlog.published(15)
    assert (depth(), age(110.0)) == (5, 5.0)
    backlog.decided(18, 106.0)  # read again from Postgres: known already
    assert (depth(), age(110.0)) == (5, 5.0)
    backlog.published(20)
    assert (depth(), age(110.0)) == (0, 0)
    backlog.end()
    assert (depth(), age(110.0)) == (None, None)
