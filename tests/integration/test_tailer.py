"""The tailer between a relay that misbehaves and a real Kafka that fails."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Self

import pytest

from consumer import metrics
from consumer.config.settings import RelaySettings
from consumer.errors import Reason, Transient
from consumer.kafka.client import Client
from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.metrics import EpochCause, ReconnectCause, Stage
from consumer.scope import Scope
from consumer.tail import tailer as module
from consumer.tail.collector import MAX_BYTES
from consumer.tail.cursor import HOUR, Cursor
from consumer.tail.subscription import HIGH_WATER
from consumer.tail.tailer import RelayState, Store, Tailer
from simulator.frames import error_frame, frame, info_frame
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import Forwarded, assert_chained, assert_whole, forwarded, numbered
from tests.support.harness import Harness, running
from tests.support.kafka import client_through
from tests.support.proxy import TcpProxy
from tests.support.relay import Behaviour, ScriptedRelay, freeze, hang_up, sends

pytestmark = pytest.mark.services

LIMIT = 200_000
SILENCE = 1.0


@dataclass
class TailerHarness(Harness):
    """A deployment without workers: what they would know is given by hand."""

    relay: ScriptedRelay
    tracked: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    consumed: dict[int, int] = field(default_factory=dict)
    mirrored: list[Cursor] = field(default_factory=list)
    states: list[RelayState] = field(default_factory=list)
    store_away: bool = False

    def tailer(self, client: Client | None = None, **relay: Any) -> Tailer:
        """Return a tailer that reconnects without a pause."""
        settings = RelaySettings(**{"url": self.relay.url, "silence": SILENCE, **relay})
        scope = Scope(("pub.chive.*",))
        store = Store(self._tracked, self._joined, self._consumed, self._mirror, self._report)
        tailer = Tailer(
            settings, scope, client or self.client, self.topics, store, frame_limit=LIMIT
        )
        tailer._chance = NoPause()
        return tailer

    async def _tracked(self) -> set[str]:
        if self.store_away:
            raise Transient("Postgres is away")
        return set(self.tracked)

    async def _joined(self, seconds: float) -> set[str]:
        assert seconds > 0
        return set(self.joined)

    async def _consumed(self) -> Mapping[int, int]:
        if self.store_away:
            raise Transient("Postgres is away")
        return self.consumed

    async def _mirror(self, relay: str, cursor: Cursor) -> None:
        assert relay == self.relay.url
        if self.store_away:
            raise Transient("Postgres is away")
        self.mirrored.append(cursor)

    async def _report(self, relay: str, state: RelayState) -> None:
        assert relay == self.relay.url
        self.states.append(state)

    async def forwarded(self) -> list[Forwarded]:
        """Return what a ``read_committed`` reader finds in the firehose topic."""
        return await forwarded(self.client, self.topics)

    async def cursors(self) -> dict[str, Cursor]:
        """Return the newest cursors that are committed."""
        found = {}
        for record in await self.committed(Topic.CURSOR):
            if record.key and record.value and record.key.startswith(b"ws"):
                found[record.key.decode()] = Cursor.decode(record.value)
        return found

    async def reached(self, seq: int, deadline: float = 60.0) -> Cursor:
        """Wait until the durable cursor of the relay is at ``seq``."""

        async def look() -> Cursor | None:
            cursor = (await self.cursors()).get(self.relay.url)
            return cursor if cursor is not None and cursor.seq == seq else None

        found = await eventually(look, what=f"cursor at {seq}", deadline=deadline, every=0.2)
        assert found is not None
        return found

    async def store_cursor(self, relay: str, cursor: Cursor) -> None:
        """Make ``cursor`` the durable one, as an earlier tailer would have."""
        async with await TransactionalProducer.open(self.client, module.ROLE) as producer:
            topic = self.topics.name(Topic.CURSOR)
            await producer.commit([OutRecord(topic, 0, relay.encode(), cursor.encode())])


class NoPause(random.Random):
    """Chance that always says: at once."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b, 0.0)


class Mine:
    """A membership that believes it holds the partition, whatever others believe.

    Once it no longer ``believes``, it gives way when it is fenced the next time.
    """

    def __init__(self) -> None:
        self.believes = True
        self.rejoined = 0
        self._fenced = False

    @classmethod
    async def open(cls, *_: object) -> Self:
        return cls()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def until(self, condition: Callable[[frozenset[int]], bool]) -> None:
        holds = self.believes or not self._fenced
        if not (holds and condition(frozenset({0}))):
            await asyncio.get_running_loop().create_future()
        if self._fenced:
            self._fenced = False
            await asyncio.sleep(random.uniform(0.05, 0.3))

    def rejoin(self) -> None:
        self.rejoined += 1
        self._fenced = True


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[TailerHarness]:
    async with (
        ScriptedRelay() as relay,
        TailerHarness.opened(deployment, relay=relay) as harness,
    ):
        yield harness


def commit(seq: int, did: str, path: str) -> tuple[int, bytes]:
    ops = [{"action": "create", "path": path, "cid": None}]
    body = {"seq": seq, "repo": did, "time": "2025-01-01T00:00:00Z", "ops": ops}
    return seq, frame("#commit", body)


WANTED, UNWANTED = "pub.chive.eprint.submission/3k", "app.bsky.feed.post/3k"


async def test_every_frame_once_and_the_cursor_behind_the_last(harness: TailerHarness) -> None:
    frames = list(numbered(1, 5_000))
    harness.relay.log = frames
    async with running(harness.tailer(start="oldest").run):
        cursor = await harness.reached(5_000)
        await eventually(lambda: harness.mirrored and harness.mirrored[-1] == cursor, what="mirror")
    found = await harness.forwarded()
    assert_whole(found, frames)
    assert {record.epoch for record in found} == {1}
    assert {record.relay for record in found} == {harness.relay.url}
    assert harness.relay.cursors == [0]


async def test_it_begins_live(harness: TailerHarness) -> None:
    harness.relay.log = list(numbered(1, 10))
    live = list(numbered(11, 20))
    async with running(harness.tailer().run):
        await eventually(lambda: harness.relay.cursors == [None], what="connected")
        await harness.relay.publish(live)
        await harness.reached(20)
    assert_whole(await harness.forwarded(), live)


async def test_a_successor_goes_on_at_the_cursor(harness: TailerHarness) -> None:
    frames = list(numbered(1, 3_000))
    harness.relay.log = frames[:2_000]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(2_000)
    await harness.relay.publish(frames[2_000:])
    async with running(harness.tailer().run):
        await harness.reached(3_000)
    assert harness.relay.cursors == [0, 2_000]
    assert_whole(await harness.forwarded(), frames)


async def a_while(relay: ScriptedRelay, connection: Any, cursor: int | None) -> None:
    """Send some frames behind the cursor, and the last of them once more."""
    assert cursor is not None
    behind = [f for seq, f in relay.log if seq > cursor][:100]
    for message in [*behind, *behind[-1:]]:
        await connection.send(message)


def after_a_while(then: Behaviour) -> Behaviour:
    async def behaviour(relay: ScriptedRelay, connection: Any, cursor: int | None) -> None:
        await a_while(relay, connection, cursor)
        await then(relay, connection, cursor)

    return behaviour


async def break_framing(_relay: ScriptedRelay, connection: Any, _cursor: int | None) -> None:
    connection.transport.write(b"\x83\x01x")
    await connection.wait_closed()


async def test_whatever_the_relay_does_nothing_is_lost(harness: TailerHarness) -> None:
    frames = list(numbered(1, 2_000))
    harness.relay.log = frames
    slow = error_frame("ConsumerTooSlow", "bye")
    faults: list[tuple[Behaviour | HTTPStatus, ReconnectCause]] = [
        (after_a_while(sends()), ReconnectCause.CLOSED),
        (after_a_while(hang_up), ReconnectCause.DROPPED),
        (after_a_while(freeze), ReconnectCause.SILENCE),
        (after_a_while(sends(slow, then=freeze)), ReconnectCause.ERROR_FRAME),
        (HTTPStatus.SERVICE_UNAVAILABLE, ReconnectCause.REJECTED),
        (after_a_while(break_framing), ReconnectCause.PROTOCOL),
        (after_a_while(sends("text", b"x" * (LIMIT + 1), b"garbage")), ReconnectCause.CLOSED),
    ]
    causes = metrics.by_label(metrics.RECONNECTS)
    harness.relay.behave(*(behaviour for behaviour, _ in faults))
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(2_000)
    seen = metrics.by_label(metrics.RECONNECTS)
    for cause in {cause for _, cause in faults}:
        wanted = sum(1 for _, each in faults if each is cause)
        assert seen[cause] - causes[cause] == wanted, cause
    found = await harness.forwarded()
    assert_whole(found, frames)
    assert {record.epoch for record in found} == {1}
    assert harness.relay.cursors == [0, 100, 200, 300, 400, 500, 600]
    dead = await harness.committed(Topic.DEAD_LETTER)
    for record in dead:
        validate(record)
    assert {(dict(r.headers)["reason"], r.value) for r in dead} == {
        (Reason.FRAME_TEXT.encode(), b"text"),
        (Reason.FRAME_TOO_BIG.encode(), b""),
        (Reason.FRAME_MALFORMED.encode(), b"garbage"),
    }


async def test_a_thousand_malformed_frames_and_the_next_good_one(harness: TailerHarness) -> None:
    refused = metrics.REFUSED.labels(Reason.FRAME_MALFORMED, Stage.TAILER)
    before = refused._value.get()
    good = list(numbered(1, 1))
    harness.relay.behave(sends(*[b"\xff%d" % i for i in range(1_000)], good[0][1], then=freeze))
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1)
    assert_whole(await harness.forwarded(), good)
    dead = await harness.committed(Topic.DEAD_LETTER)
    assert {record.value for record in dead} == {b"\xff%d" % i for i in range(1_000)}
    assert len(dead) == 1_000
    assert refused._value.get() - before == 1_000


async def test_a_reset_sequence_is_a_new_epoch(harness: TailerHarness) -> None:
    before, after = list(numbered(1_001, 1_100)), list(numbered(1, 50))
    resets = metrics.by_label(metrics.EPOCHS)[EpochCause.RESET]
    harness.relay.log = before
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1_100)
        harness.relay.behave(sends(*(f for _, f in after), then=freeze))
        await harness.relay.publish([])
        await _disconnect(harness.relay)
        cursor = await harness.reached(50)
    assert cursor.epoch == 2
    found = await harness.forwarded()
    assert_chained(found)
    assert sorted(r.seq for r in found if r.epoch == 1) == [seq for seq, _ in before]
    assert sorted(r.seq for r in found if r.epoch == 2) == [seq for seq, _ in after]
    assert metrics.by_label(metrics.EPOCHS)[EpochCause.RESET] - resets == 1


async def test_a_cursor_of_the_future_is_given_up(harness: TailerHarness) -> None:
    await harness.store_cursor(harness.relay.url, _cursor(harness, seq=10**12))
    harness.relay.behave(sends(error_frame("FutureCursor", "ahead of us")))
    harness.relay.log = list(numbered(1, 20))
    async with running(harness.tailer(start="oldest").run):
        cursor = await harness.reached(20)
    assert cursor.epoch == 4
    assert harness.relay.cursors == [10**12, 0]
    found = await harness.forwarded()
    assert_whole(found, harness.relay.log)


@pytest.mark.parametrize("told", [True, False], ids=["told", "found out"])
async def test_a_cursor_too_old_is_a_new_epoch(harness: TailerHarness, told: bool) -> None:
    away = 1.0 if told else 100 * HOUR
    await harness.store_cursor(harness.relay.url, _cursor(harness, seq=100, away=away))
    frames = list(numbered(900, 950))
    news = [info_frame("OutdatedCursor", "too old")] if told else []
    harness.relay.behave(sends(*news, *(f for _, f in frames), then=freeze))
    async with running(harness.tailer().run):
        cursor = await harness.reached(950)
    assert cursor.epoch == 4
    assert harness.relay.cursors[0] == 100
    found = await harness.forwarded()
    assert_whole(found, frames)
    assert {record.epoch for record in found} == {4}


async def test_another_relay_has_its_own_cursor_and_a_new_epoch(harness: TailerHarness) -> None:
    await harness.store_cursor("wss://other.test", _cursor(harness, seq=10**9))
    harness.relay.log = list(numbered(1, 10))
    async with running(harness.tailer(start="oldest").run):
        cursor = await harness.reached(10)
    assert (cursor.epoch, harness.relay.cursors) == (4, [0])
    assert (await harness.cursors())["wss://other.test"].seq == 10**9


async def test_only_what_matters_is_forwarded(harness: TailerHarness) -> None:
    harness.tracked = {"did:plc:known"}
    harness.relay.log = [
        commit(1, "did:plc:a", UNWANTED),
        commit(2, "did:plc:a", WANTED),
        commit(3, "did:plc:a", UNWANTED),
        commit(4, "did:plc:b", UNWANTED),
        commit(5, "did:plc:known", UNWANTED),
        commit(6, "did:plc:b", UNWANTED),
    ]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(6)
    found = await harness.forwarded()
    assert sorted(record.seq for record in found) == [2, 3, 5]
    assert_chained(found)


async def test_repositories_that_join_by_a_sync_are_forwarded_from_then_on(
    harness: TailerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_JOIN_EVERY", 0.05)
    harness.relay.log = [commit(1, "did:plc:a", UNWANTED)]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1)
        assert await harness.forwarded() == []
        harness.joined = {"did:plc:a"}
        seq = 1

        async def seen() -> list[int]:
            nonlocal seq
            seq += 1
            await harness.relay.publish([commit(seq, "did:plc:a", UNWANTED)])
            return [record.seq for record in await harness.forwarded()]

        first = (await eventually(seen, what="its commits are forwarded"))[0]
        await harness.reached(seq)
    found = await harness.forwarded()
    assert [record.seq for record in found] == list(range(first, seq + 1))
    assert_chained(found)


async def test_the_tracked_set_is_found_again_in_what_workers_have_not_read(
    harness: TailerHarness,
) -> None:
    joined, other = "did:plc:joined", "did:plc:other"
    harness.relay.log = [commit(1, joined, WANTED)]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1)
    await harness.relay.publish([commit(2, joined, UNWANTED), commit(3, other, UNWANTED)])
    async with running(harness.tailer().run):
        await harness.reached(3)
    assert [r.seq for r in await harness.forwarded()] == [1, 2]

    # Behind the workers' positions the topic says nothing: what counts is what they know.
    harness.consumed = dict.fromkeys(range(harness.topics.partitions), 10**9)
    await harness.relay.publish([commit(4, joined, UNWANTED)])
    async with running(harness.tailer().run):
        await harness.reached(4)
    assert [r.seq for r in await harness.forwarded()] == [1, 2]


async def test_forwarding_all_needs_no_store(harness: TailerHarness) -> None:
    harness.store_away = True
    harness.relay.log = [commit(1, "did:plc:a", UNWANTED)]
    async with running(harness.tailer(start="oldest", forward="all").run):
        await harness.reached(1)
    assert len(await harness.forwarded()) == 1


async def test_postgres_away_is_waited_out(harness: TailerHarness) -> None:
    harness.store_away = True
    harness.relay.log = list(numbered(1, 10))
    async with running(harness.tailer(start="oldest").run):
        await _attempts_in_vain(2)
        assert harness.relay.cursors == []
        harness.store_away = False
        await harness.reached(10)


async def test_one_tails_and_the_other_stands_by(harness: TailerHarness) -> None:
    frames = list(numbered(1, 3_000))
    harness.relay.log = frames[:1_000]
    first, second = harness.tailer(start="oldest"), harness.tailer(start="oldest")
    async with running(first.run, second.run, may_end=True) as tasks:
        await harness.reached(1_000)
        assert harness.relay.connections == 1
        active = 0 if first._newest else 1
        assert (second, first)[active]._newest is None
        tasks[active].cancel()
        await asyncio.wait([tasks[active]])
        tasks[active] = tasks[1 - active]
        await harness.relay.publish(frames[1_000:])
        await harness.reached(3_000)
    assert_whole(await harness.forwarded(), frames)


async def test_two_that_both_believe_fence_each_other_and_lose_nothing(
    harness: TailerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    memberships: list[Mine] = []

    async def believe(*_: object) -> Mine:
        memberships.append(Mine())
        return memberships[-1]

    monkeypatch.setattr(Membership, "open", believe)
    frames: list[tuple[int, bytes]] = []

    async def more() -> bool:
        batch = list(numbered(len(frames) + 1, len(frames) + 500, padding=500))
        frames.extend(batch)
        await harness.relay.publish(batch)
        return sum(m.rejoined for m in memberships) >= 5

    async with running(harness.tailer(start="oldest").run, harness.tailer(start="oldest").run):
        await eventually(more, what="fenced five times", deadline=60, every=0.1)
        memberships[0].believes = False  # as long as both do, neither need ever get through
        await harness.reached(len(frames))
    assert len(memberships) == 2
    assert all(m.rejoined for m in memberships)
    found = await harness.forwarded()
    assert_whole(found, frames)
    assert {record.epoch for record in found} == {1}


async def test_kafka_gone_and_back_loses_nothing(
    harness: TailerHarness, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    frames = list(numbered(1, 6_000))
    harness.relay.log = frames[:2_000]
    tailer = harness.tailer(client_through(kafka_proxy, deployment), start="oldest")
    async with running(tailer.run):
        for part in (2_000, 4_000):
            await harness.reached(part)
            await harness.relay.publish(frames[part : part + 1_000])
            await kafka_proxy.stop()
            assert kafka_proxy.cut > 0
            await harness.relay.publish(frames[part + 1_000 : part + 2_000])
            await _attempts_in_vain(1)
            await kafka_proxy.start()
        await harness.reached(6_000)
    assert_whole(await harness.forwarded(), frames)


async def test_a_quiet_relay_does_not_hide_that_a_transaction_failed(
    harness: TailerHarness, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    frames = list(numbered(1, 2))
    harness.relay.log = frames[:1]
    tailer = harness.tailer(client_through(kafka_proxy, deployment), start="oldest")
    async with running(tailer.run):
        await harness.reached(1)
        await kafka_proxy.stop()
        await harness.relay.publish(frames[1:])
        await _attempts_in_vain(2)
        await kafka_proxy.start()
        await harness.reached(2)
    assert_whole(await harness.forwarded(), frames)


async def test_while_kafka_stalls_the_relay_has_to_wait(
    harness: TailerHarness, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    """Memory stays bounded: what the relay cannot send is all that we hold, whatever it has."""
    padding = 50_000
    frames = list(numbered(1, 4_000, padding))  # 200 MB
    harness.relay.log = frames[:1]
    client = client_through(kafka_proxy, deployment, timeout=15.0)
    async with running(harness.tailer(client, start="oldest").run):
        await harness.reached(1)
        kafka_proxy.stall()
        await harness.relay.publish(frames[1:])
        await eventually(_steady(harness.relay), what="relay stuck")
        held = kafka_proxy.held
        assert held > 0
        taken = harness.relay.sent * padding
        # Two transactions and a queue, each overdrawn by a queue at most, and socket buffers.
        assert taken < 2 * (MAX_BYTES + HIGH_WATER) + HIGH_WATER + 10_000_000
        kafka_proxy.resume()
        await harness.reached(4_000, deadline=120)
    assert_whole(await harness.forwarded(), frames)


async def _attempts_in_vain(count: int) -> None:
    before = metrics.by_label(metrics.WAITS)["kafka"]
    await eventually(
        lambda: metrics.by_label(metrics.WAITS)["kafka"] >= before + count,
        what=f"{count} attempts in vain",
    )


def _steady(relay: ScriptedRelay) -> Callable[[], bool]:
    seen: list[int] = []

    def look() -> bool:
        seen.append(relay.sent)
        return seen[-1] > 1 and len(seen) > 40 and len(set(seen[-40:])) == 1

    return look


def _cursor(harness: TailerHarness, seq: int, away: float = 1.0) -> Cursor:
    moment = time.time() - away
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    return Cursor(seq, text, 3, (seq,) * harness.topics.partitions, moment)


async def _disconnect(relay: ScriptedRelay) -> None:
    assert relay._server is not None
    for connection in list(relay._server.connections):
        await connection.close()
