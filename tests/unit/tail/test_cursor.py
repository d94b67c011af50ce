"""Positions: replays, resets, forgetful relays, other relays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.errors import Fatal
from consumer.metrics.labels import EpochCause
from consumer.tail.cursor import (
    HOUR,
    KEPT,
    Admission,
    Cursor,
    Kept,
    Position,
    plausible,
    resume,
    seconds,
)

RELAY, OTHER = "wss://relay.test", "wss://other.test"
NOON = 1_750_000_000.0


def iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def stored(seq: int = 100, epoch: int = 3, at: float = NOON) -> Cursor:
    return Cursor(seq, iso(at), epoch, (seq - 1, seq), at)


def started(
    cursors: Mapping[str, Cursor], *, start: int | None = None
) -> tuple[Position, EpochCause | None]:
    return resume(cursors, RELAY, 2, start=start, now=NOON)


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
    position, _ = started({}, start=0)
    assert position.ask == 0


def test_the_first_start_may_go_on_where_another_consumer_was() -> None:
    position, cause = started({}, start=31_527_015_322)
    assert (position.epoch, position.ask, cause) == (1, 31_527_015_322, None)
    nothing_came = Cursor(0, None, 1, (0, 0), NOON)
    assert started({RELAY: nothing_came}, start=31_527_015_322)[0].ask == 31_527_015_322
    position.connected(NOON)
    assert position.admit(31_527_015_322, iso(NOON)) is Admission.FIRST
    assert position.admit(31_527_015_323, iso(NOON)) is Admission.NEXT


@pytest.mark.parametrize(
    "cursors",
    [{OTHER: stored()}, {OTHER: stored(), RELAY: Cursor(0, None, 4, (0, 0), NOON)}],
)
def test_later_that_place_may_be_in_another_sequence(cursors: Mapping[str, Cursor]) -> None:
    assert started(cursors, start=5_000)[0].ask is None
    assert started(cursors, start=0)[0].ask == 0


def test_a_reset_ends_that_place() -> None:
    for start, then in ((5_000, None), (0, 0), (None, None)):
        position, _ = started({}, start=start)
        position.connected(NOON)
        position.admit(5_001, iso(NOON))
        position.forget()
        assert position.ask == then


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
        resume({RELAY: stored()}, RELAY, 8, start=None, now=NOON)


def test_the_cursor_of_another_shard_is_refused() -> None:
    own = replace(stored(), shard="1/2")
    assert Cursor.decode(own.encode()) == own
    for cursor, shard in ((own, "2/2"), (own, "1/1"), (stored(), "1/2")):
        with pytest.raises(Fatal, match=f"shard {cursor.shard}.*is {shard}"):
            resume({OTHER: cursor}, RELAY, 2, start=None, now=NOON, shard=shard)
    position, cause = resume({RELAY: own}, RELAY, 2, start=None, now=NOON, shard="1/2")
    assert (position.cursor().shard, cause) == ("1/2", None)


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


def test_a_first_seq_below_the_cursor_is_a_reset_once_it_is_confirmed() -> None:
    position = reconnected(away=1)
    assert position.admit(7, iso(NOON + 1)) is Admission.DENIED
    position.connected(NOON + 60)
    assert position.admit(7, iso(NOON + 1)) is Admission.DENIED
    assert (position.seq, position.epoch, position.ask) == (100, 3, 100)
    position.connected(NOON + 61)
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
    assert position.admit(7, iso(NOON)) is Admission.FIRST


# -- what is replayed is compared with what was kept ----------------------------------

REPLAY, DENIED, NEXT = Admission.REPLAY, Admission.DENIED, Admission.NEXT
RESET, TOO_OLD, FIRST = Admission.RESET, Admission.TOO_OLD, Admission.FIRST


def kept(*seqs: int) -> tuple[Kept, ...]:
    return tuple((seq, f"did:plc:{seq}", f"rev{seq}") for seq in seqs)


def at_5000(away: float, seen: tuple[Kept, ...] = kept(*range(4_985, 5_001))) -> Position:
    cursor = Cursor(5_000, iso(NOON), 3, (4_999, 5_000), NOON, seen)
    position, _ = started({RELAY: Cursor.decode(cursor.encode())})
    position.connected(NOON + away)
    return position


def admitted(position: Position, frames: tuple[Kept, ...], time: float) -> list[Admission]:
    return [position.admit(seq, iso(time), did, mark) for seq, did, mark in frames]


def test_it_asks_from_the_oldest_frame_kept() -> None:
    assert at_5000(1).ask == 4_984
    position, _ = started({}, start=0)
    admitted(position, kept(*range(1, 101)), NOON)
    assert position.ask == 100 - KEPT
    assert position.cursor().seen == kept(*range(85, 101))


def test_a_cursor_with_frames_survives_encoding() -> None:
    cursor = Cursor(5, None, 3, (5,), NOON, kept(4, 5))
    assert Cursor.decode(cursor.encode()) == cursor
    assert b'"seen":[[4,"did:plc:4","rev4"],[5,"did:plc:5","rev5"]]' in cursor.encode()


@pytest.mark.parametrize("seen", ["[1]", "[[1]]", '[["x","did","rev"]]', "7"])
def test_frames_of_another_form_are_our_own_corruption(seen: str) -> None:
    value = f'{{"seq":1,"time":null,"session":1,"last":[1],"as_of":1.0,"seen":{seen}}}'
    with pytest.raises(Fatal):
        Cursor.decode(value.encode())


@pytest.mark.parametrize(
    ("away", "first", "time"),
    [
        pytest.param(300.0, 5_001, 240.0, id="5001, 240 s later"),
        pytest.param(11 * HOUR, 5_001, 11 * HOUR, id="5001, 11 h later"),
        pytest.param(300.0, 999_000, 240.0, id="999000"),
        pytest.param(300.0, 999_000, 1.0, id="999000, a second later"),
        pytest.param(300.0, 5_002, 1.0, id="not the next seq"),
    ],
)
def test_another_sequence_that_overlaps_is_a_loss_window(
    away: float, first: int, time: float
) -> None:
    position = at_5000(away)
    assert position.admit(first, iso(NOON + time), "did:plc:other", "rev") is TOO_OLD
    assert (position.seq, position.epoch, position.last) == (first, 4, [0, 0])
    assert position.admit(first + 1, iso(NOON + time)) is NEXT


@pytest.mark.parametrize("away", [1.0, 13 * HOUR, 100 * HOUR])
def test_replayed_frames_prove_continuity_whatever_the_times_say(away: float) -> None:
    position = at_5000(away)
    replayed = kept(*range(4_985, 5_001))
    assert admitted(position, replayed, NOON + away) == [REPLAY] * KEPT
    assert admitted(position, kept(5_001, 999_000), NOON + away) == [NEXT, NEXT]
    assert (position.epoch, position.last) == (3, [4_999, 5_000])


def test_one_replayed_frame_is_enough() -> None:
    position = at_5000(13 * HOUR)
    assert admitted(position, kept(4_990, 5_007), NOON + 13 * HOUR) == [REPLAY, NEXT]
    assert position.epoch == 3


def test_a_replayed_frame_that_differs_is_a_loss_window() -> None:
    for other in [(4_999, "did:plc:other", "rev4999"), (4_999, "did:plc:4999", "other")]:
        position = at_5000(1)
        assert admitted(position, (*kept(4_985), other), NOON) == [REPLAY, RESET]
        assert (position.seq, position.epoch, position.ask) == (4_999, 4, 4_998)


def test_a_first_frame_in_the_range_that_we_do_not_know_is_a_loss_window() -> None:
    position = at_5000(1, seen=kept(4_990, 4_995, 5_000))
    assert position.admit(4_992, iso(NOON), "did:plc:x", "rev") is RESET


def test_a_sequence_that_was_set_back_a_little_is_a_loss_window() -> None:
    """A relay restored from a backup: it has the older of the kept frames, then others."""
    position = at_5000(1, seen=kept(4_990, 4_995, 5_000))
    frames = (*kept(4_990, 4_995), (4_997, "did:plc:x", "rev"), (5_002, "did:plc:y", "rev"))
    assert admitted(position, frames, NOON) == [REPLAY, REPLAY, REPLAY, RESET]


def test_a_frame_that_once_came_out_of_order_does_not_break_continuity() -> None:
    position = at_5000(1, seen=kept(4_990, 4_995, 5_000))
    frames = kept(4_990, 4_992, 4_995, 5_000, 5_001)
    assert admitted(position, frames, NOON) == [REPLAY] * 4 + [NEXT]
    assert position.epoch == 3


def test_a_server_that_replays_the_cursor_itself_is_no_other_sequence() -> None:
    position = at_5000(1)
    frames = ((4_984, "did:plc:unknown", "rev"), *kept(4_985, 5_000, 5_001))
    assert admitted(position, frames, NOON) == [REPLAY, REPLAY, REPLAY, NEXT]


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((5_001, NOON + 59), True),
        ((5_001, NOON - 59), True),
        ((5_001, NOON + 61), False),
        ((5_002, NOON), False),
        ((5_001, None), False),
    ],
)
def test_what_is_plausible_where_nothing_is_replayed(
    after: tuple[int, float | None], expected: bool
) -> None:
    assert plausible((5_000, NOON), after) is expected
    assert not plausible((5_000, None), after)
    position = at_5000(1)
    time = None if after[1] is None else iso(after[1])
    assert position.admit(after[0], time) is (NEXT if expected else TOO_OLD)


def test_told_that_the_cursor_is_outdated_and_yet_frames_are_replayed() -> None:
    position = at_5000(1)
    assert not position.outdated()
    assert admitted(position, kept(4_999, 5_000, 5_001), NOON) == [REPLAY, REPLAY, NEXT]
    assert position.epoch == 3


def test_told_that_the_cursor_is_outdated_and_nothing_is_replayed() -> None:
    position = at_5000(1)
    assert not position.outdated()
    assert position.admit(5_001, iso(NOON)) is TOO_OLD
    assert position.epoch == 4


def test_a_position_is_denied_until_it_is_confirmed() -> None:
    position = at_5000(1)
    assert [position.denied(NOON + after) for after in (0, 30, 59.9, 60)] == [False] * 3 + [True]


def test_a_denial_that_is_taken_back_does_not_count() -> None:
    position = at_5000(1)
    assert not position.denied(NOON)
    position.connected(NOON + 30)
    assert admitted(position, kept(4_985), NOON) == [REPLAY]
    assert not position.denied(NOON + 61)
    assert position.admit(7, iso(NOON)) is DENIED
    assert (position.seq, position.epoch, position.ask) == (5_000, 3, 4_984)


def test_where_there_is_no_position_nothing_is_denied() -> None:
    position, _ = started({})
    assert not any(position.denied(NOON + after) for after in (0, 1_000))


SEQUENCE = kept(*range(10, 2_000, 7))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 100_000)), min_size=1, max_size=20),
    st.booleans(),
)
def test_a_relay_that_replays_is_continuous_however_often_we_reconnect(
    readings: list[tuple[int, int]], inclusive: bool
) -> None:
    """Every frame comes once, in one epoch, whatever the absences and the times are."""
    position, _ = started({}, start=0)
    taken: list[int] = []
    now = NOON
    for count, away in readings:
        position, cause = resume(
            {RELAY: Cursor.decode(position.cursor().encode())}, RELAY, 2, start=0, now=now
        )
        assert cause is None
        now += away
        ask = position.ask or 0
        position.connected(now)
        behind = [frame for frame in SEQUENCE if frame[0] >= ask + (not inclusive)]
        taken += [f[0] for f in behind[:count] if admitted(position, (f,), now)[0] in {FIRST, NEXT}]
    assert position.epoch == 1
    assert taken == [frame[0] for frame in SEQUENCE[: len(taken)]]


@given(st.integers(1, 250), st.integers(0, 3_000), st.integers(-100, 100_000), st.booleans())
def test_another_relay_s_sequence_never_passes_for_ours(
    read: int, newest: int, later: int, tells: bool
) -> None:
    """Whatever part of our sequence it overlaps: a frame of it is taken only in a new epoch."""
    position, _ = started({}, start=0)
    admitted(position, SEQUENCE[:read], NOON)
    other = [(seq, f"did:plc:other{seq}", "rev") for seq in range(newest, newest + 30)]
    ask = position.ask or 0
    for now in (NOON + 1, NOON + 62):
        position.connected(now)
        if tells:
            position.outdated()
        for frame in other:
            if frame[0] > ask:
                [admission] = admitted(position, (frame,), NOON + later)
                if admission is DENIED:
                    break
                follows = frame[0] == SEQUENCE[read - 1][0] + 1 and abs(later) <= 60 and not tells
                if admission is NEXT and not follows:
                    assert position.epoch > 1
