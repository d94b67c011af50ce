"""Positions: replays, resets, forgetful relays, other relays."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest

from consumer.errors import Fatal
from consumer.metrics import EpochCause
from consumer.tail.cursor import HOUR, Admission, Cursor, Position, resume, seconds

RELAY, OTHER = "wss://relay.test", "wss://other.test"
NOON = 1_750_000_000.0


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def stored(seq: int = 100, epoch: int = 3, at: float = NOON) -> Cursor:
    return Cursor(seq, iso(at), epoch, (seq - 1, seq), at)


def started(
    cursors: Mapping[str, Cursor], *, oldest: bool = False
) -> tuple[Position, EpochCause | None]:
    return resume(cursors, RELAY, 2, oldest=oldest, now=NOON)


def reconnected(away: float, seq: int = 100) -> Position:
    position, _ = started({RELAY: stored(seq)})
    position.connected(NOON + away)
    return position


def test_a_cursor_survives_encoding() -> None:
    cursor = stored(seq=31_527_015_322)
    assert Cursor.decode(cursor.encode()) == cursor


def test_the_form_of_a_stored_cursor_stays() -> None:
    cursor = Cursor(100, "2026-07-04T12:00:00.000Z", 3, (99, 100), 1_783_166_400.5)
    value = (
        b'{"seq":100,"time":"2026-07-04T12:00:00.000Z","session":3,'
        b'"last":[99,100],"as_of":1783166400.5}'
    )
    assert cursor.encode() == value
    assert Cursor.decode(value) == cursor


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"[]",
        b'{"seq":1,"last":[1]}',
        b'{"last":["x"]}',
        b'"x"',
        b'{"seq":1,"time":null,"epoch":1,"last":[1],"as_of":1.0}',
    ],
)
def test_a_cursor_of_another_form_is_our_own_corruption(value: bytes) -> None:
    with pytest.raises(Fatal):
        Cursor.decode(value)


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2025-01-01T00:00:00Z", 1_735_689_600.0),
        ("2025-01-01T01:00:00.123456789+01:00", 1_735_689_600.123456),
        ("2025-01-01T00:00:00", 1_735_689_600.0),
        ("yesterday", None),
        ("9999-99-99T00:00:00Z", None),
        ("9999-12-31T23:59:59-23:59", None),
        ("9999-12-31T23:59:59.999999Z", None),
        ("0001-01-01T00:00:00+23:59", None),
        (None, None),
    ],
)
def test_seconds(time: str | None, expected: float | None) -> None:
    assert seconds(time) == expected


def test_the_first_start_is_epoch_one_and_live() -> None:
    position, cause = started({})
    assert (position.epoch, position.ask, cause) == (1, None, None)
    assert position.admit(5_000_000_000, iso(NOON)) is Admission.NEXT


def test_the_first_start_may_begin_at_the_oldest_frame() -> None:
    position, _ = started({}, oldest=True)
    assert position.ask == 0


def test_the_same_relay_goes_on_in_its_epoch() -> None:
    position, cause = started({RELAY: stored(epoch=3), OTHER: stored(epoch=2)})
    assert (position.epoch, position.ask, cause) == (3, 100, None)
    assert position.cursor() == stored(epoch=3)


def test_another_relay_begins_an_epoch_above_all_others() -> None:
    position, cause = started({OTHER: stored(epoch=3)})
    assert (position.epoch, position.ask, cause) == (4, None, EpochCause.RELAY)


def test_coming_back_to_a_relay_resumes_its_seq_in_a_new_epoch() -> None:
    position, cause = started({RELAY: stored(epoch=3), OTHER: stored(epoch=7)})
    assert (position.epoch, position.ask, cause) == (8, 100, EpochCause.RELAY)
    assert position.last == [0, 0]


def test_another_number_of_partitions_is_refused() -> None:
    with pytest.raises(Fatal, match="partitions"):
        resume({RELAY: stored()}, RELAY, 8, oldest=False, now=NOON)


def test_frames_go_up_and_replays_are_dropped() -> None:
    position = reconnected(away=1)
    seqs = [100, 101, 103, 103, 102, 104]
    assert [position.admit(seq, iso(NOON)) for seq in seqs] == [
        Admission.REPLAY,
        Admission.NEXT,
        Admission.NEXT,
        Admission.REPLAY,
        Admission.REPLAY,
        Admission.NEXT,
    ]
    assert (position.seq, position.epoch) == (104, 3)


def test_a_jump_in_seq_proves_nothing() -> None:
    position = reconnected(away=HOUR)
    assert position.admit(10**10, iso(NOON + HOUR)) is Admission.NEXT


def test_a_first_seq_below_the_cursor_is_a_reset() -> None:
    position = reconnected(away=1)
    assert position.admit(7, iso(NOON + 1)) is Admission.RESET
    assert (position.seq, position.epoch, position.last) == (7, 4, [0, 0])
    assert position.admit(8, iso(NOON + 1)) is Admission.NEXT


def test_a_replay_in_mid_stream_is_no_reset() -> None:
    position = reconnected(away=1)
    assert position.admit(101, iso(NOON)) is Admission.NEXT
    admitted = {position.admit(seq, iso(NOON)) for seq in range(1, 101)}
    assert admitted == {Admission.REPLAY}
    assert position.epoch == 3


def test_a_replay_of_the_cursor_itself_proves_continuity() -> None:
    position = reconnected(away=100 * HOUR)
    assert position.admit(100, iso(NOON)) is Admission.REPLAY
    assert position.admit(101, iso(NOON + 99 * HOUR)) is Admission.NEXT


def test_a_seq_from_nowhere_does_not_stop_the_stream_for_ever() -> None:
    position = reconnected(away=1)
    assert position.admit(2**62, iso(NOON)) is Admission.NEXT
    admitted = [position.admit(seq, iso(NOON)) for seq in range(101, 2_000)]
    assert admitted.count(Admission.REPLAY) == 1_000
    assert admitted[1_000] is Admission.RESET
    assert all(one is Admission.NEXT for one in admitted[1_001:])


@pytest.mark.parametrize(
    ("away", "first", "expected"),
    [
        pytest.param(11 * HOUR, 11 * HOUR, Admission.NEXT, id="no relay forgets so soon"),
        pytest.param(50 * HOUR, 60.0, Admission.NEXT, id="the relay remembers"),
        pytest.param(50 * HOUR, 20 * HOUR, Admission.TOO_OLD, id="the relay forgot"),
        pytest.param(80 * HOUR, 60.0, Admission.TOO_OLD, id="no relay keeps it that long"),
    ],
)
def test_a_cursor_too_old(away: float, first: float, expected: Admission) -> None:
    position = reconnected(away)
    assert position.admit(200, iso(NOON + first)) is expected
    assert position.epoch == (4 if expected is Admission.TOO_OLD else 3)
    assert position.seq == 200


def test_a_time_that_is_none_is_not_trusted() -> None:
    position = reconnected(away=50 * HOUR)
    assert position.admit(200, "later") is Admission.TOO_OLD


def test_a_quiet_relay_that_we_listened_to_forgot_nothing() -> None:
    position = reconnected(away=1)
    position.caught_up(NOON + 200 * HOUR)
    position.connected(NOON + 200 * HOUR + 5)
    assert position.admit(101, iso(NOON + 200 * HOUR)) is Admission.NEXT


def test_far_behind_counts_as_away() -> None:
    position = reconnected(away=50 * HOUR)
    assert position.admit(101, iso(NOON + 60)) is Admission.NEXT
    position.reached(NOON + 50 * HOUR)
    position.connected(NOON + 50 * HOUR + 1)
    assert position.admit(102, iso(NOON + 3 * HOUR)) is Admission.TOO_OLD


def test_a_frame_from_the_future_hides_no_absence() -> None:
    position = reconnected(away=1)
    assert position.admit(101, "2999-01-01T00:00:00Z") is Admission.NEXT
    position.reached(NOON + 1)
    position.connected(NOON + 80 * HOUR)
    assert position.admit(102, iso(NOON + 80 * HOUR)) is Admission.TOO_OLD


def test_told_that_the_cursor_is_outdated() -> None:
    position = reconnected(away=1)
    assert position.outdated()
    assert (position.epoch, position.ask, position.last) == (4, 100, [0, 0])
    assert position.admit(900, iso(NOON)) is Admission.NEXT
    assert position.epoch == 4


def test_told_so_more_than_once_in_a_connection() -> None:
    position = reconnected(away=1)
    told = [position.outdated() for _ in range(3)]
    position.connected(NOON + 2)
    assert [*told, position.outdated()] == [True, False, False, True]
    assert position.epoch == 5


def test_told_that_the_cursor_is_of_the_future() -> None:
    position = reconnected(away=1)
    position.forget()
    assert (position.epoch, position.ask) == (4, None)
    position.connected(NOON + 2)
    assert position.admit(7, iso(NOON)) is Admission.NEXT
