"""Up to where a partition is complete, case by case; ``tests/property`` has the interleavings."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.state.progress import NOWHERE, Place, Reached, Received, is_due, reached

RELAY = "wss://relay.test"
CURSOR = Reached(RELAY, Place(2, 900), "2026-07-04T14:39:14.123Z", 100.0)
RECEIVED = Received(CURSOR, (0, 700, 900))


def frame(seq: int, epoch: int = 2) -> Reached:
    return Reached(RELAY, Place(epoch, seq), "2026-07-04T14:39:00.000Z", 90.0)


@pytest.mark.parametrize(
    ("lane", "decided", "found"),
    [
        (1, Place(2, 700), CURSOR),  # its newest frame is decided: the rest is of other lanes
        (1, Place(2, 650), None),  # a frame is on its way
        (1, Place(1, 5_000), None),  # it was not told of the epoch yet
        (1, Place(3, 800), None),  # the cursor is an older one
        (1, Place(2, 950), CURSOR),
        (0, Place(2, 0), CURSOR),  # it has had no frame in this epoch
        (0, NOWHERE, None),  # nor heard of it
        (7, Place(2, 900), None),  # the cursor was written with other partitions
    ],
)
def test_a_quiet_lane_is_as_far_as_the_cursor(
    lane: int, decided: Place, found: Reached | None
) -> None:
    assert reached(lane, decided, None, RECEIVED, None) == found


def test_the_first_epoch_is_not_announced() -> None:
    first = Received(replace(CURSOR, place=Place(1, 900)), (0, 700, 900))
    assert reached(0, NOWHERE, None, first, None) == first.reached
    assert reached(1, NOWHERE, None, first, None) is None


def test_a_cursor_without_a_frame_says_nothing() -> None:
    begun = Received(replace(CURSOR, place=Place(2, 0)), (0, 0, 0))
    assert reached(0, Place(2, 0), None, begun, None) is None


def test_a_lane_that_takes_frames_is_as_far_as_the_newest() -> None:
    assert reached(1, Place(2, 650), frame(650), RECEIVED, None) == frame(650)
    assert reached(1, Place(2, 950), frame(950), RECEIVED, None) == frame(950)
    assert reached(1, Place(2, 700), frame(700), RECEIVED, None) == CURSOR
    assert reached(1, Place(2, 650), frame(650), None, None) == frame(650)
    assert reached(1, Place(2, 650), None, None, None) is None


def test_a_frame_that_waits_holds_back() -> None:
    held = reached(1, Place(2, 700), None, RECEIVED, frame(300))
    assert held == replace(frame(300), place=Place(2, 299))
    earlier = reached(1, Place(2, 700), None, RECEIVED, frame(5_000, epoch=1))
    assert earlier == replace(frame(5_000), place=Place(1, 4_999))
    assert reached(1, Place(2, 700), None, RECEIVED, frame(901)) == CURSOR


def test_what_is_no_news_is_said_less_often() -> None:
    assert is_due(CURSOR, NOWHERE, 0.0, 10.0)
    assert not is_due(CURSOR, CURSOR.place, 59.0, 10.0)
    assert is_due(CURSOR, CURSOR.place, 60.0, 10.0)
    assert not is_due(CURSOR, Place(2, 901), 1_000.0, 10.0)
    assert is_due(CURSOR, Place(1, 9_999), 0.0, 10.0)
