"""The tailer and a relay that misbehaves: every frame once, in order."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection

from consumer import metrics
from consumer.errors import Reason
from consumer.kafka.topics import Topic
from consumer.metrics.labels import EpochCause, ReconnectCause, Stage
from consumer.tail.cursor import HOUR, KEPT, Cursor
from simulator.frames import error_frame, info_frame
from tests.integration.tailing import LIMIT, TailerHarness
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import SPREAD, announced, assert_chained, assert_whole, numbered
from tests.support.harness import running
from tests.support.relay import Behaviour, ScriptedRelay, freeze, hang_up, sends

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[TailerHarness]:
    async with (
        ScriptedRelay() as relay,
        TailerHarness.opened(deployment, relay=relay) as harness,
    ):
        yield harness


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


async def test_it_begins_where_another_consumer_was(harness: TailerHarness) -> None:
    frames = list(numbered(1, 2_000))
    harness.relay.log = frames
    async with running(harness.tailer(start=1_500).run):
        await harness.reached(2_000)
    async with running(harness.tailer(start=1_500).run):
        await eventually(lambda: len(harness.relay.cursors) == 2, what="connected again")
    assert harness.relay.cursors == [1_500, 2_000 - KEPT]
    assert_whole(await harness.forwarded(), frames[1_500:])


async def test_a_successor_goes_on_at_the_cursor(harness: TailerHarness) -> None:
    frames = list(numbered(1, 3_000))
    harness.relay.log = frames[:2_000]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(2_000)
    await harness.relay.publish(frames[2_000:])
    async with running(harness.tailer().run):
        await harness.reached(3_000)
    assert harness.relay.cursors == [0, 2_000 - KEPT]
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
    assert harness.relay.cursors == [n * (100 - KEPT) for n in range(7)]
    dead = await harness.committed(Topic.DEAD_LETTER)
    for record in dead:
        validate(record)
    assert {(dict(r.headers)["reason"], r.value) for r in dead} == {
        (Reason.FRAME_TEXT.encode(), b"text"),
        (Reason.FRAME_TOO_BIG.encode(), b"x" * 65_536),
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
    async with running(harness.tailer(start="oldest", future_cursor_confirm=0.001).run):
        await harness.reached(1_100)
        harness.relay.behave(*[sends(*(f for _, f in after), then=freeze)] * 9)
        await harness.relay.publish([])
        await _disconnect(harness.relay)
        cursor = await harness.reached(50)
    assert cursor.epoch == 2
    notices = await announced(harness.client, harness.topics)
    assert sorted(notices) == [(lane, 2) for lane in range(harness.topics.partitions)]
    found = await harness.forwarded()
    assert_chained(found)
    assert sorted(r.seq for r in found if r.epoch == 1) == [seq for seq, _ in before]
    assert sorted(r.seq for r in found if r.epoch == 2) == [seq for seq, _ in after]
    assert metrics.by_label(metrics.EPOCHS)[EpochCause.RESET] - resets == 1


async def denies_the_future(
    relay: ScriptedRelay, connection: ServerConnection, cursor: int | None
) -> None:
    if cursor is not None and cursor > relay.log[-1][0]:
        await connection.send(error_frame("FutureCursor", "ahead of us"))
    else:
        await relay.play(connection, cursor)


async def test_a_cursor_of_the_future_is_given_up(harness: TailerHarness) -> None:
    await harness.store_cursor(harness.relay.url, _cursor(harness, seq=10**12))
    harness.relay.behave(*[denies_the_future] * 9)
    harness.relay.log = list(numbered(1, 20))
    async with running(harness.tailer(start="oldest", future_cursor_confirm=0.001).run):
        cursor = await harness.reached(20)
    assert cursor.epoch == 4
    *denied, last = harness.relay.cursors
    assert (set(denied), last) == ({10**12}, 0)
    assert len(denied) >= 2  # once more, however little time lies between them
    found = await harness.forwarded()
    assert_whole(found, harness.relay.log)


async def test_a_relay_that_is_half_ready_does_not_cost_the_cursor(harness: TailerHarness) -> None:
    frames = list(numbered(1, 2_000))
    harness.relay.log = frames[:1_000]
    future = sends(error_frame("FutureCursor", "ahead of us"))
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1_000)
        harness.relay.behave(future, sends(frames[0][1], then=freeze), future)
        await harness.relay.publish(frames[1_000:1_100])
        await _disconnect(harness.relay)
        await harness.relay.publish(frames[1_100:])
        cursor = await harness.reached(2_000)
    assert cursor.epoch == 1
    assert len(harness.relay.cursors) == 5
    assert_whole(await harness.forwarded(), frames)


@pytest.mark.parametrize("away", [300.0, 11 * HOUR])
async def test_another_sequence_that_overlaps_ours_is_a_new_epoch(
    harness: TailerHarness, away: float
) -> None:
    seen = tuple((seq, f"did:plc:{seq % SPREAD}", f"rev{seq}") for seq in range(4_985, 5_001))
    stored = replace(_cursor(harness, seq=5_000, away=away), seen=seen)
    await harness.store_cursor(harness.relay.url, stored)
    frames = list(numbered(5_001, 5_010))
    harness.relay.log = frames
    async with running(harness.tailer().run):
        cursor = await harness.reached(5_010)
    assert harness.relay.cursors == [4_984]
    assert cursor.epoch == 4
    assert_whole(await harness.forwarded(), frames)


async def test_replayed_frames_prove_that_nothing_is_missing(harness: TailerHarness) -> None:
    frames = list(numbered(4_985, 5_010))
    seen = tuple((seq, f"did:plc:{seq % SPREAD}", "#identity") for seq, _ in frames[:16])
    stored = replace(_cursor(harness, seq=5_000, away=100 * HOUR), seen=seen)
    await harness.store_cursor(harness.relay.url, stored)
    harness.relay.log = frames
    async with running(harness.tailer().run):
        cursor = await harness.reached(5_010)
    assert cursor.epoch == 3
    assert [record.seq for record in await harness.forwarded()] != []
    assert {record.epoch for record in await harness.forwarded()} == {3}


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


def _cursor(harness: TailerHarness, seq: int, away: float = 1.0) -> Cursor:
    moment = time.time() - away
    text = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    return Cursor(seq, text, 3, (seq,) * harness.topics.partitions, moment)


async def _disconnect(relay: ScriptedRelay) -> None:
    assert relay._server is not None
    for connection in list(relay._server.connections):
        await connection.close()


async def test_a_stored_cursor_is_shown_while_the_relay_is_quiet(harness: TailerHarness) -> None:
    harness.relay.log = list(numbered(1, 10))
    async with running(harness.tailer(start="oldest").run):
        cursor = await harness.reached(10)
    harness.mirrored.clear()  # as if the first tailer had died before it could show it
    async with running(harness.tailer().run):
        await eventually(lambda: harness.mirrored == [cursor], what="the mirror", deadline=60)
    assert len(await harness.forwarded()) == 10
