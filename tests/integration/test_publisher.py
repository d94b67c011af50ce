"""The publisher on real Kafka and PostgreSQL: exactly once, in order, whatever fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pydantic import SecretStr

from consumer import metrics
from consumer.kafka.client import Client
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.transaction import Fenced, OutcomeUnknown, OutRecord, TransactionalProducer
from consumer.lanes.publisher import READ_BACK, Publisher
from consumer.store.database import Database
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.proxy import TcpProxy
from tests.support.publishing import (
    PACE,
    PublisherHarness,
    all_trimmed,
    claimed,
    count_of,
    exactly_once,
    sequence,
)

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(
    deployment: Deployment, request: pytest.FixtureRequest
) -> AsyncIterator[PublisherHarness]:
    async with claimed(deployment, getattr(request, "param", {})) as harness:
        yield harness


ROUTES = {"pub.chive.eprint.*": "eprints", "pub.chive.graph.*": "graph"}


Commit = Callable[[TransactionalProducer, Sequence[OutRecord]], Awaitable[None]]


async def killed(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_rows_handed_over_are_published_and_trimmed(harness: PublisherHarness) -> None:
    async with harness.publishing() as outgoing:
        for _ in range(10):
            await outgoing.hand_over(await harness.decide(9))
        await all_trimmed(harness)
    await exactly_once(harness)


async def test_rows_decided_before_the_start_come_first(harness: PublisherHarness) -> None:
    await harness.decide(50)
    handed = await harness.decide(10)
    async with harness.publishing() as outgoing:
        await outgoing.hand_over(handed)
        await all_trimmed(harness)
    await exactly_once(harness)


async def test_rows_never_handed_over_are_found(harness: PublisherHarness) -> None:
    async with harness.publishing() as outgoing:
        await outgoing.hand_over(await harness.decide(3))
        await harness.decide(4)  # its COMMIT was not answered
        await all_trimmed(harness)
        await harness.decide(5)  # nor was this one's, and the next batch makes the gap known
        await outgoing.hand_over(await harness.decide(6))
        await all_trimmed(harness)
    await exactly_once(harness)


async def test_stopping_publishes_what_was_handed_over(harness: PublisherHarness) -> None:
    async with harness.publishing() as outgoing:
        await outgoing.hand_over(await harness.decide(30))
    await exactly_once(harness)


async def test_nothing_is_trimmed_before_its_marker_was_read_back(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def blind(*_: object, **__: object) -> list[Any]:
        return []

    await harness.decide(20)
    with monkeypatch.context() as patch:
        patch.setattr(PartitionReader, "fetch", sighted_once(blind))
        async with harness.publishing():
            await eventually(
                lambda: published_all(harness), what="everything in Kafka", deadline=90
            )
        assert await harness.waiting() == 20
    async with harness.publishing():
        await all_trimmed(harness)
    await exactly_once(harness)


def sighted_once(blind: Callable[..., Awaitable[list[Any]]]) -> Callable[..., Awaitable[list[Any]]]:
    """Let readers see, but not the publisher's own reader of markers."""
    real = PartitionReader.fetch

    async def fetch(
        self: PartitionReader, *places: TopicPartition, wait: float, limit: int | None = None
    ) -> Any:
        if wait == READ_BACK:
            return await blind()
        return await real(self, *places, wait=wait, limit=limit)

    return fetch


async def published_all(harness: PublisherHarness) -> bool:
    return len(set(sequence(await harness.published()))) == harness.decided


with_and_without_routes = pytest.mark.parametrize("harness", [{}, ROUTES], indirect=True)


@with_and_without_routes
async def test_a_crash_between_commit_and_trim_repeats_nothing(harness: PublisherHarness) -> None:
    await harness.decide(20)
    never = replace(PACE, trim_every=1e9)
    task = asyncio.create_task(harness.publish_forever(never))
    await eventually(lambda: published_all(harness), what="everything in Kafka", deadline=90)
    await killed(task)
    assert await harness.waiting() > 0
    async with harness.publishing():
        await all_trimmed(harness)
    await exactly_once(harness)


@with_and_without_routes
async def test_crashes_anywhere_repeat_and_lose_nothing(harness: PublisherHarness) -> None:
    chance = random.Random(7)
    for _ in range(12):
        publisher = harness.publisher()
        async with publisher.publishing(harness.lane, undecided=True) as outgoing:
            for _ in range(chance.randrange(1, 5)):
                await outgoing.hand_over(await harness.decide(chance.randrange(1, 20)))
            await asyncio.sleep(chance.uniform(0.0, 0.3))  # anywhere between two awaits
    async with harness.publishing():
        await all_trimmed(harness)
    await exactly_once(harness)


def interfering(
    times: int,
    interfere: Callable[[TransactionalProducer, Sequence[OutRecord], Commit], Awaitable[None]],
) -> Any:
    """Return a ``commit`` that goes wrong the first ``times``, barriers excepted."""
    real = TransactionalProducer.commit
    left = times

    async def commit(self: TransactionalProducer, records: Sequence[OutRecord]) -> None:
        nonlocal left
        if len(records) > 1 and left:
            left -= 1
            await interfere(self, records, real)
        else:
            await real(self, records)

    return commit


async def committed_and_unknown(
    producer: TransactionalProducer, records: Sequence[OutRecord], commit: Commit
) -> None:
    await commit(producer, records)
    raise OutcomeUnknown("the answer was lost")


async def lost_and_unknown(*_: object) -> None:
    raise OutcomeUnknown("the request was lost")


@with_and_without_routes
@pytest.mark.parametrize("interfere", [committed_and_unknown, lost_and_unknown])
async def test_an_unknown_outcome_is_looked_up(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch, interfere: Any
) -> None:
    before = count_of("unknown")
    monkeypatch.setattr(TransactionalProducer, "commit", interfering(3, interfere))
    async with harness.publishing() as outgoing:
        await outgoing.hand_over(await harness.decide(40))
        await all_trimmed(harness)
    await exactly_once(harness)
    assert count_of("unknown") == before + 3


async def test_a_fenced_publisher_that_owns_the_lane_comes_back(
    harness: PublisherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fenced(
        producer: TransactionalProducer, records: Sequence[OutRecord], commit: Commit
    ) -> None:
        async with await TransactionalProducer.open(harness.client, producer.name):
            with pytest.raises(Fenced):
                await commit(producer, records)
            raise Fenced("by the test")

    before = count_of("fenced")
    monkeypatch.setattr(TransactionalProducer, "commit", interfering(1, fenced))
    async with harness.publishing() as outgoing:
        await outgoing.hand_over(await harness.decide(20))
        await all_trimmed(harness)
    await exactly_once(harness)
    assert count_of("fenced") == before + 1


async def test_kafka_away_holds_the_worker_back_and_is_waited_out(
    harness: PublisherHarness, kafka_proxy: TcpProxy
) -> None:
    address = f"127.0.0.1:{kafka_proxy.port}"
    settings = harness.client.settings.model_copy(
        update={"bootstrap_servers": address, "request_timeout": 3.0}
    )
    pace = replace(PACE, waiting_bytes=2000)
    async with harness.publishing(pace, Client(settings)) as outgoing:
        await outgoing.hand_over(await harness.decide(5))
        await all_trimmed(harness)
        await kafka_proxy.stop()
        blocked = asyncio.create_task(outgoing.hand_over(await harness.decide(50)))
        done, _ = await asyncio.wait([blocked], timeout=2.0)
        assert not done
        assert kafka_proxy.cut > 0
        await kafka_proxy.start()
        await asyncio.wait_for(blocked, 60)
        await all_trimmed(harness)
    await exactly_once(harness)


async def test_postgres_away_is_waited_out(
    harness: PublisherHarness, deployment: Deployment, postgres_proxy: TcpProxy
) -> None:
    dsn = SecretStr(deployment.dsn_through(postgres_proxy))
    database = Database(deployment.postgres(dsn=dsn), deployment.prefix)
    await database.open()
    publisher = Publisher(harness.client, harness.topics, database, PACE)
    async with publisher.publishing(harness.lane, undecided=True) as outgoing:
        await outgoing.hand_over(await harness.decide(5))
        await all_trimmed(harness)
        await postgres_proxy.stop()
        assert postgres_proxy.cut > 0
        await outgoing.hand_over(await harness.decide(20))
        await harness.decide(10)
        refused = metrics.ROOT_RESTARTS.labels("publisher")
        before = refused._value.get()
        await eventually(lambda: refused._value.get() > before, what="an attempt given up")
        assert await harness.waiting() > 0
        await postgres_proxy.start()
        await all_trimmed(harness)
    await exactly_once(harness)
    await database.close()
