"""Several tailers, and a real Kafka that fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Self

import pytest

from consumer.kafka.membership import Membership
from consumer.tail.collector import MAX_BYTES
from consumer.tail.subscription import HIGH_WATER
from tests.integration.tailing import TailerHarness, attempts_in_vain
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import assert_whole, numbered
from tests.support.harness import running
from tests.support.kafka import client_through
from tests.support.proxy import TcpProxy
from tests.support.relay import ScriptedRelay

pytestmark = pytest.mark.services


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


async def test_one_tails_and_the_other_stands_by(harness: TailerHarness) -> None:
    frames = list(numbered(1, 3_000))
    harness.relay.log = frames[:1_000]
    first, second = harness.tailer(start="oldest"), harness.tailer(start="oldest")
    async with running(first.run, second.run, may_end=True) as tasks:
        await harness.reached(1_000)
        assert harness.relay.connections == 1
        active = 0 if first._mirror._newest else 1
        assert (second, first)[active]._mirror._newest is None
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
            await attempts_in_vain(1)
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
        await attempts_in_vain(2)
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


def _steady(relay: ScriptedRelay) -> Callable[[], bool]:
    seen: list[int] = []

    def look() -> bool:
        seen.append(relay.sent)
        return seen[-1] > 1 and len(seen) > 40 and len(set(seen[-40:])) == 1

    return look
