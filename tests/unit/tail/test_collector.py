"""Messages become records: what goes where, and with which headers."""

from __future__ import annotations

import libipld
import pytest
from structlog.testing import capture_logs

from consumer.errors import Reason
from consumer.kafka.topics import Topics
from consumer.kafka.transaction import OutRecord
from consumer.scope import Scope
from consumer.shard import Shard, shard_of
from consumer.tail import collector as module
from consumer.tail.collector import MAX_BYTES, MAX_FRAMES, Collector
from consumer.tail.cursor import Cursor, Position
from consumer.tail.outcomes import Garbage, RelayError
from consumer.tail.relevance import Relevance
from consumer.tail.splitter import Unusable
from simulator.frames import account_frame, error_frame, frame, identity_frame, info_frame

RELAY = "wss://relay.test"
TOPICS = Topics("t.", 4)
LIMIT = 1_000_000


LINGER = 0.03  # seconds


def commit(seq: int, did: str, path: str = "pub.chive.eprint.submission/3k") -> bytes:
    """Return as much of a ``#commit`` as the tailer looks at."""
    ops = [{"action": "create", "path": path, "cid": None}]
    return frame("#commit", {"seq": seq, "repo": did, "time": "2025-01-01T00:00:00Z", "ops": ops})


@pytest.fixture
def collector() -> Collector:
    position = Position(3, TOPICS.partitions, start=None, now=0.0)
    relevance = Relevance(Scope(("pub.chive.*",)), forward_all=False)
    return Collector(RELAY, TOPICS, relevance, position, LIMIT, linger=LINGER)


def records(collector: Collector, *messages: bytes | Unusable) -> list[OutRecord]:
    collector.take(messages, 0.0)
    return collector.cut(0.0).records


def headers(record: OutRecord) -> dict[str, bytes]:
    return dict(record.headers)


def test_frames_and_cursor_lie_in_one_transaction(collector: Collector) -> None:
    did = "did:plc:alice"
    frame_, cursor = records(collector, commit(7, did))
    assert frame_ == OutRecord(
        "t.firehose",
        TOPICS.partition_of(did),
        did.encode(),
        commit(7, did),
        (
            ("seq", b"7"),
            ("relay", RELAY.encode()),
            ("session", b"3"),
            ("prev_seq", b"0"),
        ),
    )
    assert (cursor.topic, cursor.partition, cursor.key) == ("t.cursor", 0, RELAY.encode())
    stored = Cursor.decode(cursor.value or b"")
    assert (stored.seq, stored.epoch) == (7, 3)
    assert stored.last[TOPICS.partition_of(did)] == 7


def test_prev_seq_is_that_of_the_partition(collector: Collector) -> None:
    dids = [f"did:plc:{i}" for i in range(40)]
    out = records(collector, *(identity_frame(seq, did) for seq, did in enumerate(dids, 1)))
    seen = dict.fromkeys(range(4), 0)
    for record in out[:-1]:
        assert int(headers(record)["prev_seq"]) == seen[record.partition]
        seen[record.partition] = int(headers(record)["seq"])
    assert Cursor.decode(out[-1].value or b"").last == tuple(seen.values())


def test_frames_of_another_shard_move_no_more_than_the_cursor() -> None:
    mine, theirs = "did:plc:alice", "did:plc:carol"
    shard = Shard(shard_of(mine, 2), 2)
    assert not shard.has(theirs)
    position = Position(3, TOPICS.partitions, start=None, now=0.0)
    relevance = Relevance(Scope(("pub.chive.*",), shard=shard), forward_all=True)
    out = records(
        Collector(RELAY, TOPICS, relevance, position, LIMIT, linger=LINGER),
        commit(7, theirs),
        account_frame(8, theirs, active=False),
        odd(9, theirs),  # the worker of the other shard refuses it
        commit(10, mine),
        identity_frame(11, theirs),
    )
    assert [(record.topic, record.key) for record in out] == [
        ("t.firehose", mine.encode()),
        ("t.cursor", RELAY.encode()),
    ]
    assert Cursor.decode(out[-1].value or b"").seq == 11


def test_irrelevant_frames_and_replays_move_no_more_than_the_cursor(collector: Collector) -> None:
    feed = "app.bsky.feed.post/3k"
    out = records(
        collector, commit(7, "did:plc:a", feed), commit(7, "did:plc:b"), commit(6, "did:plc:b")
    )
    assert [record.topic for record in out] == ["t.cursor"]
    assert Cursor.decode(out[0].value or b"").seq == 7


@pytest.mark.parametrize(
    ("message", "reason", "kept"),
    [
        (b"garbage", Reason.FRAME_MALFORMED, b"garbage"),
        (b"", Reason.FRAME_MALFORMED, b""),
        (Unusable(Reason.FRAME_TEXT, "hi", b"hi"), Reason.FRAME_TEXT, b"hi"),
        (Unusable(Reason.FRAME_TOO_BIG, "9 MB", b""), Reason.FRAME_TOO_BIG, b""),
    ],
)
def test_what_cannot_be_read_is_kept_and_the_next_frame_flows(
    collector: Collector, message: bytes | Unusable, reason: Reason, kept: bytes
) -> None:
    refused, good, _ = records(collector, message, account_frame(9, "did:plc:a", active=True))
    assert (refused.topic, refused.partition, refused.key) == ("t.dead-letter", 0, None)
    assert refused.value == kept
    assert headers(refused)["reason"] == reason.encode()
    assert headers(refused)["relay"] == RELAY.encode()
    assert good.topic == "t.firehose"


def odd(seq: int, did: str, path: str = "pub.chive.eprint.submission/3k") -> bytes:
    """Return a ``#commit`` with more items than a frame may have."""
    header, body = libipld.decode_dag_cbor_multi(commit(seq, did, path))
    body["blocks"] = list(range(40_000))
    return bytes(libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body))


def test_a_frame_that_cannot_be_decoded_goes_to_the_lane_of_its_account(
    collector: Collector,
) -> None:
    did = "did:plc:alice"
    before, forwarded, after, cursor = records(
        collector, commit(7, did), odd(8, did), odd(8, did), commit(9, did)
    )
    assert (forwarded.topic, forwarded.key, forwarded.value) == (
        "t.firehose",
        did.encode(),
        odd(8, did),
    )
    assert [headers(r)["prev_seq"] for r in (before, forwarded, after)] == [b"0", b"7", b"8"]
    assert Cursor.decode(cursor.value or b"").seq == 9


def test_of_a_frame_above_the_limit_the_beginning_goes_there(collector: Collector) -> None:
    beginning = odd(8, "did:plc:alice")[:65_536]
    forwarded, _ = records(collector, Unusable(Reason.FRAME_TOO_BIG, "9 MB", beginning))
    assert (forwarded.key, forwarded.value) == (b"did:plc:alice", beginning)


def test_what_cannot_be_decoded_and_is_not_wanted_is_kept_with_its_did(
    collector: Collector,
) -> None:
    refused, cursor = records(collector, odd(8, "did:plc:alice", "app.bsky.feed.post/3k"))
    assert (refused.topic, refused.key) == ("t.dead-letter", b"did:plc:alice")
    assert headers(refused)["seq"] == b"8"
    assert Cursor.decode(cursor.value or b"").seq == 8


def test_an_unknown_type_is_refused_as_such(collector: Collector) -> None:
    refused, _ = records(collector, frame("#novelty", {"seq": 5}))
    assert headers(refused)["reason"] == Reason.FRAME_UNKNOWN_TYPE.encode()


def test_an_absurd_did_cannot_make_a_record_too_large(collector: Collector) -> None:
    did = "did:plc:" + "a" * (LIMIT - 1_000)
    refused, _ = records(collector, commit(1, did))
    assert headers(refused)["reason"] == Reason.FRAME_MALFORMED.encode()


def test_detail_is_cut(collector: Collector) -> None:
    refused, _ = records(collector, Unusable(Reason.FRAME_TEXT, "é" * 10_000, b""))
    assert headers(refused)["detail"].decode() == "é" * 1_024


def test_an_error_frame_ends_the_stream_behind_what_came_before(collector: Collector) -> None:
    with pytest.raises(RelayError, match="ConsumerTooSlow: bye"):
        collector.take([commit(7, "did:plc:a"), error_frame("ConsumerTooSlow", "bye")], 0.0)
    assert [record.topic for record in collector.cut(0.0).records] == ["t.firehose", "t.cursor"]


def test_an_outdated_cursor_begins_an_epoch(collector: Collector) -> None:
    before, *announced, after, cursor = records(
        collector,
        commit(7, "did:plc:a"),
        info_frame("OutdatedCursor", "too old"),
        info_frame("OutdatedCursor", "too old"),
        commit(900, "did:plc:a"),
    )
    assert notices(announced) == [(partition, b"4") for partition in range(4)]
    assert [headers(r)["session"] for r in (before, after)] == [b"3", b"4"]
    assert headers(after)["prev_seq"] == b"0"
    assert Cursor.decode(cursor.value or b"").epoch == 4


def test_an_outdated_cursor_that_we_never_had_is_no_break(collector: Collector) -> None:
    collector.take([info_frame("OutdatedCursor"), commit(7, "did:plc:a")], 0.0)
    assert collector.position.epoch == 3


def test_other_information_changes_nothing(collector: Collector) -> None:
    out = records(collector, info_frame("Maintenance"), commit(7, "did:plc:a"))
    assert [record.topic for record in out] == ["t.firehose", "t.cursor"]


def test_what_a_relay_sends_without_end_does_not_fill_the_log(collector: Collector) -> None:
    text = Unusable(Reason.FRAME_TEXT, "hi", b"hi")
    with capture_logs() as logs:
        for now in (0.0, 0.5, 1.5):
            collector.take([text, info_frame("Maintenance")] * 100, now)
    assert [entry["event"] for entry in logs] == ["message_unusable"] * 2
    assert len(collector.cut(2.0).records) == 300 + 1


def test_a_stream_of_garbage_is_given_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_GARBAGE", 5)
    collector.take([b"no"] * 4 + [commit(1, "did:plc:a")] + [b"no"] * 4, 0.0)
    with pytest.raises(Garbage):
        collector.take([b"no"], 0.0)
    assert len(collector.cut(0.0).records) == 9 + 1 + 1
    with pytest.raises(Garbage):
        collector.take([odd(seq, "did:plc:a") for seq in range(2, 7)], 0.0)
    assert len(collector.cut(0.0).records) == 5 + 1


def test_when_a_transaction_is_due(collector: Collector) -> None:
    assert collector.due_in(100.0) > 60  # nothing new: only to say that we are here
    collector.take([commit(1, "did:plc:a", "app.bsky.feed.post/3k")], 100.0)
    assert 0.5 < collector.due_in(100.0) <= 1.0
    collector.take([commit(2, "did:plc:a")], 100.0)
    assert collector.due_in(100.0) == pytest.approx(LINGER)
    assert collector.due_in(101.0) < 0
    collector.cut(101.0)
    assert not collector.pending
    assert collector.due_in(101.0) > 60


def test_full_by_count(collector: Collector) -> None:
    states = []
    for seq in range(1, MAX_FRAMES + 1):
        collector.take([identity_frame(seq, "did:plc:a")], 0.0)
        states.append((collector.full, collector.due_in(0.0) <= 0))
    assert states == [(False, False)] * (MAX_FRAMES - 1) + [(True, True)]
    collector.cut(0.0)
    assert not collector.full


def test_full_by_size(collector: Collector) -> None:
    big = libipld.encode_dag_cbor({"op": 1, "t": "#account"}) + libipld.encode_dag_cbor(
        {"seq": 1, "did": "did:plc:a", "time": "2025-01-01T00:00:00Z", "x": "y" * 900_000}
    )
    taken = 0
    while not collector.full:
        collector.position.seq = 0
        collector.take([big], 0.0)
        taken += 1
    assert (taken - 1) * 900_000 < MAX_BYTES <= taken * 901_000


def notices(records: list[OutRecord]) -> list[tuple[int, bytes]]:
    """Return partition and epoch of each notice."""
    return [(r.partition, headers(r)["session"]) for r in records if "notice" in headers(r)]


def test_every_lane_is_told_of_an_epoch_before_its_first_frame(collector: Collector) -> None:
    out = records(collector, commit(7, "did:plc:a"))
    assert notices(out) == []
    collector.position.begin_epoch()
    collector.connected(0.0)
    assert collector.pending
    out = records(collector, commit(8, "did:plc:a"))
    assert notices(out) == [(partition, b"4") for partition in range(4)] == notices(out[:4])
    assert {(r.topic, r.key, r.value) for r in out[:4]} == {("t.firehose", b"", b"")}
    assert headers(out[4])["session"] == b"4"
    collector.connected(0.0)
    assert notices(records(collector, commit(9, "did:plc:a"))) == []


def test_without_a_position_the_first_frame_announces_the_epoch(collector: Collector) -> None:
    collector.take([commit(7, "did:plc:a")], 0.0)
    collector.position.forget()
    assert notices(collector.cut(0.0).records) == []
    collector.position.connected(0.0)
    collector.connected(0.0)
    assert not collector.pending
    out = records(collector, commit(2, "did:plc:a"))
    assert notices(out[:4]) == [(partition, b"4") for partition in range(4)]
