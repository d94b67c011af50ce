"""Who does what, on a real Kafka."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from consumer.kafka import membership as module
from consumer.kafka.client import Client
from consumer.kafka.membership import Membership
from consumer.kafka.topics import Topic, Topics
from tests.support.deployment import PARTITIONS, Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_through
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.services

ALL = frozenset(range(PARTITIONS))


async def joined(client: Client, topics: Topics, topic: Topic = Topic.FIREHOSE) -> Membership:
    return await Membership.open(client, topics.name(topic), "role")


async def test_alone_it_has_everything(client: Client, topics: Topics) -> None:
    async with await joined(client, topics) as member:
        assert member.assigned == frozenset()
        assert await member.changed(frozenset()) == ALL
        assert member.assigned == ALL


async def test_two_share_and_one_that_closes_hands_over(client: Client, topics: Topics) -> None:
    first = await joined(client, topics)
    await first.until(lambda mine: mine == ALL)
    second = await joined(client, topics)
    await eventually(
        lambda: (
            first.assigned | second.assigned == ALL
            and not first.assigned & second.assigned
            and len(first.assigned) == len(second.assigned)
        ),
        what="an even split",
    )
    await first.close()
    await second.until(lambda mine: mine == ALL)
    await second.close()


async def test_one_partition_has_one_holder(client: Client, topics: Topics) -> None:
    members = [await joined(client, topics, Topic.CURSOR) for _ in range(3)]
    holding = await eventually(
        lambda: [m for m in members if m.assigned], what="a holder of the partition"
    )
    assert [m.assigned for m in holding] == [frozenset({0})]
    await holding[0].close()
    others = [m for m in members if m is not holding[0]]
    await eventually(lambda: sum(len(m.assigned) for m in others) == 1, what="a new holder")
    await asyncio.gather(*(m.close() for m in others))


async def test_rejoining_starts_from_nothing(client: Client, topics: Topics) -> None:
    async with await joined(client, topics) as member:
        await member.until(lambda mine: mine == ALL)
        member.rejoin()
        assert member.assigned == frozenset()
        await member.until(lambda mine: mine == ALL)


async def test_a_member_that_left_without_a_word_comes_back(
    client: Client, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Aiokafka may give up its place in silence: the watch finds out and joins anew."""
    monkeypatch.setattr(module, "_WATCH_SECONDS", 0.2)
    consumers: list[Any] = []
    make = client.member

    def remember(group: str, identity: str) -> Any:
        consumers.append(make(group, identity))
        return consumers[-1]

    monkeypatch.setattr(client, "member", remember)
    async with await joined(client, topics) as member:
        await member.until(lambda mine: mine == ALL)
        # It now leaves as after too long without a read, and waits for the next read.
        consumers[0]._coordinator._max_poll_interval = -1
        await eventually(lambda: len(consumers) > 1, what="a new member")
        await eventually(_known(client, topics), what="a member that the broker knows")
        await member.until(lambda mine: mine == ALL)


async def test_kafka_away_takes_nothing_from_us(
    topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    through = client_through(kafka_proxy, deployment)
    async with await joined(through, topics) as member:
        await member.until(lambda mine: mine == ALL)
        await kafka_proxy.stop()
        assert kafka_proxy.cut > 0
        assert member.assigned == ALL
        await kafka_proxy.start()
        before = kafka_proxy.accepted
        await eventually(lambda: kafka_proxy.accepted > before, what="reconnected")
        assert member.assigned == ALL


async def test_joining_waits_for_kafka(
    topics: Topics, deployment: Deployment, kafka_proxy: TcpProxy
) -> None:
    await kafka_proxy.stop()
    async with await joined(client_through(kafka_proxy, deployment), topics) as member:
        waiting = asyncio.create_task(member.changed(frozenset()))
        await asyncio.sleep(0)
        assert not waiting.done()
        await kafka_proxy.start()
        assert await waiting == ALL


def _known(client: Client, topics: Topics) -> Any:
    async def look() -> int:
        admin: AIOKafkaAdminClient
        async with client.admin() as admin:
            (response,) = await admin.describe_consumer_groups([f"{topics.prefix}role"])
        return len(response.groups[0][5])

    return look
