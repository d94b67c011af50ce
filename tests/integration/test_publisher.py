"""The publisher on real Kafka and PostgreSQL: exactly once, in order, whatever fails."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import SecretStr

from consumer import metrics
from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.compacted import BARRIER
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import Fenced, OutcomeUnknown, OutRecord, TransactionalProducer
from consumer.lanes import marker
from consumer.lanes.errors import LaneLost
from consumer.lanes.marker import Marker
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.owner import claim
from consumer.lanes.publisher import READ_BACK, Pace, Publisher
from consumer.store import lanes, outbox
from consumer.store.database import Database
from consumer.store.deployment import Deployment as Recorded
from consumer.store.deployment import check
from consumer.store.rows import RELEASED, Lane, OutRow
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness
from tests.support.kafka import committed
from tests.support.proxy import TcpProxy

pytestmark = pytest.mark.services

LANE = 2
EPRINT, NODE = "pub.chive.eprint.submission", "pub.chive.graph.node"
ROUTES = {"pub.chive.eprint.*": "eprints", "pub.chive.graph.*": "graph"}
# Small transactions, prompt looks: many boundaries in little time.
PACE = Pace(transaction_rows=7, trim_every=0.0, look_every=0.1)

Commit = Callable[[TransactionalProducer, Sequence[OutRecord]], Awaitable[None]]


@dataclass
class PublisherHarness(Harness):
    """One lane of a deployment, decided on by the test."""

    lane: Lane
    decided: int = 0

    def publisher(self, pace: Pace = PACE, client: Client | None = None) -> Publisher:
        return Publisher(client or self.client, self.topics, self.database, pace)

    @asynccontextmanager
    async def publishing(
        self, pace: Pace = PACE, client: Client | None = None
    ) -> AsyncIterator[Outgoing]:
        """Publish the lane as a new process would; at the end, all that was handed over."""
        publisher = self.publisher(pace, client)
        async with publisher.publishing(self.lane, undecided=True) as outgoing:
            yield outgoing
            assert await outgoing.published(30)

    async def publish_forever(self, pace: Pace = PACE) -> None:
        """Publish the lane until cancelled; raise what the publisher died of."""
        async with self.publisher(pace).publishing(self.lane, undecided=True) as outgoing:
            await outgoing.lost()

    async def claim(self) -> Lane:
        """Claim the lane, whichever owner it has."""
        async with self.database.transaction() as connection:
            await lanes.create(connection, LANE)
            seen = await lanes.read(connection, LANE)
            assert seen is not None
            claimed = await lanes.claim(connection, LANE, seen.token, uuid4())
        assert claimed is not None
        self.lane = claimed
        return claimed

    async def decide(self, count: int) -> list[OutRow]:
        """Commit ``count`` rows, as a batch of the worker does, and return them."""
        stamp = uuid4()
        rows = [replace(row(self.decided + i), stamp=stamp) for i in range(1, count + 1)]
        async with self.database.transaction() as connection:
            seen = await lanes.read(connection, LANE)
            assert seen is not None
            await outbox.append(connection, {LANE: rows})
            new = replace(seen, last_out_seq=self.decided + count)
            assert await lanes.advance(connection, [seen], [new])
        self.decided += count
        return rows

    async def waiting(self) -> int:
        async with self.database.transaction() as connection:
            return (await outbox.depth(connection)).get(LANE, 0)

    async def published(self) -> list[Any]:
        """Return everything a read_committed reader sees, by topic and partition."""
        return [
            record
            for name in (*self.topics.event_topics, self.topics.name(Topic.DEAD_LETTER))
            for record in await committed(self.client, name)
        ]

    def topics_of(self, row: OutRow) -> tuple[str, ...]:
        """Return the topics that the row goes to."""
        if row.topic != Topic.EVENTS:
            return (self.topics.name(row.topic),)
        return self.topics.event_routes().of(row.key)


def row(out_seq: int) -> OutRow:
    topic = "dead-letter" if out_seq % 10 == 0 else "events"
    value = None if out_seq % 5 == 3 else b"value %d" % out_seq
    headers = (("reason", b"test"),) if topic == "dead-letter" else ()
    return OutRow(out_seq, topic, out_seq % 3, key_of(out_seq // 2), headers, value)


def key_of(number: int) -> bytes:
    """Return the key of a record of one of two collections, or of an account's event."""
    if number % 3 == 0:
        return b"did:plc:%d#account" % number
    return b"at://did:plc:a/%s/%d" % ((EPRINT, NODE)[number % 2].encode(), number)


def recorded(harness: PublisherHarness) -> Recorded:
    return Recorded("a cluster", harness.topics.prefix, harness.topics.partitions)


def sequence(records: Sequence[Any]) -> list[int]:
    return [int(dict(record.headers)["out_seq"]) for record in records]


async def exactly_once(harness: PublisherHarness) -> None:
    """Assert that every decided row is in Kafka once, in order per partition, as decided."""
    found = await harness.published()
    rows = [row(out_seq) for out_seq in range(1, harness.decided + 1)]
    assert sorted((record.topic, *sequence([record])) for record in found) == sorted(
        (topic, row.out_seq) for row in rows for topic in harness.topics_of(row)
    )
    places: dict[TopicPartition, list[int]] = {}
    for record in found:
        (out_seq,) = sequence([record])
        expected = row(out_seq)
        assert (record.key, record.value) == (expected.key, expected.value)
        assert record.partition == expected.partition
        headers = (*expected.headers, ("lane", b"%d" % LANE), ("out_seq", b"%d" % out_seq))
        assert tuple(record.headers) == headers
        places.setdefault(TopicPartition(record.topic, record.partition), []).append(out_seq)
    assert all(order == sorted(order) for order in places.values())


async def all_trimmed(harness: PublisherHarness) -> None:
    await eventually(lambda: empty(harness), what="an empty outbox", deadline=90)


async def empty(harness: PublisherHarness) -> bool:
    return await harness.waiting() == 0


@pytest.fixture
async def harness(
    deployment: Deployment, request: pytest.FixtureRequest
) -> AsyncIterator[PublisherHarness]:
    lane = Lane(LANE, RELEASED)
    deployment = replace(deployment, routes=getattr(request, "param", {}))
    async with PublisherHarness.opened(deployment, lane=lane) as harness:
        async with harness.database.transaction() as connection:
            await check(connection, recorded(harness))
        await harness.claim()
        yield harness


async def killed(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def count_of(outcome: str) -> float:
    labels = {"role": "publisher", "outcome": outcome}
    return metrics.REGISTRY.get_sample_value("chive_transactions_total", labels) or 0.0


# -- in good order ----------------------------------------------------------------------------


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


# -- crashes ----------------------------------------------------------------------------------


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


# -- owners -----------------------------------------------------------------------------------


async def test_a_new_owner_takes_over_and_the_old_one_ends(harness: PublisherHarness) -> None:
    slow = replace(PACE, look_every=1e9)
    async with harness.publisher(slow).publishing(harness.lane, undecided=True) as old:
        await old.hand_over(await harness.decide(10))
        await all_trimmed(harness)
        await harness.claim()
        async with harness.publishing() as new:
            handed = await harness.decide(10)
            await new.hand_over(handed)
            await all_trimmed(harness)
            await old.hand_over(handed)  # it does not know yet
            with pytest.raises(LaneLost):
                await asyncio.wait_for(old.lost(), 30)
            with pytest.raises(LaneLost):
                await old.hand_over(handed)
    await exactly_once(harness)


async def test_a_publisher_without_the_lane_publishes_nothing(harness: PublisherHarness) -> None:
    await harness.decide(10)
    before = harness.lane
    await harness.claim()
    async with harness.publisher().publishing(before, undecided=True) as late:
        with pytest.raises(LaneLost):
            await asyncio.wait_for(late.lost(), 30)
    assert await harness.published() == []


# -- restored from an older state -------------------------------------------------------------


async def test_a_marker_ahead_of_postgres_is_fatal(harness: PublisherHarness) -> None:
    await harness.decide(5)
    async with await TransactionalProducer.open(harness.client, f"publisher-{LANE}") as producer:
        place = TopicPartition(harness.topics.name(Topic.PUBLISHED), LANE)
        await producer.commit([OutRecord(*place, marker.key_of(LANE), marker.encode(Marker(6)))])
    await halted(harness, "PostgreSQL was restored")
    assert await harness.waiting() == 5


async def test_a_marker_behind_what_was_trimmed_is_fatal(harness: PublisherHarness) -> None:
    await harness.decide(5)
    async with harness.database.transaction() as connection:
        await outbox.trim(connection, {LANE: 5})
    await halted(harness, "Kafka was restored")
    assert await harness.published() == []


async def test_rows_missing_behind_the_marker_are_fatal(harness: PublisherHarness) -> None:
    await harness.decide(2)
    await harness.decide(3)
    async with harness.database.transaction() as connection:
        await connection.execute("DELETE FROM outbox_batches WHERE through = 2")
    await halted(harness, "Kafka was restored")
    assert await harness.published() == []


async def test_numbers_that_agree_do_not_prove_a_history(harness: PublisherHarness) -> None:
    """A database restored from a backup decides on until its numbers agree with the marker."""
    await harness.decide(3)
    async with harness.publishing():
        await all_trimmed(harness)
    before = await harness.published()
    async with harness.database.transaction() as connection:  # as if nothing had been decided
        await connection.execute("DELETE FROM outbox_batches")
        await connection.execute("UPDATE lanes SET last_out_seq = 0")
    harness.decided = 0
    await harness.decide(5)
    await halted(harness, "by a transaction that PostgreSQL does not know")
    assert await harness.published() == before
    assert await harness.waiting() == 5


async def test_a_halted_deployment_stays_so(harness: PublisherHarness) -> None:
    await harness.decide(5)
    async with harness.database.transaction() as connection:
        await outbox.trim(connection, {LANE: 5})
    await halted(harness, "Kafka was restored")
    with pytest.raises(Fatal, match=r"do not belong together.*docs/backup\.md"):
        await claim(harness.database, LANE + 1, uuid4())
    with pytest.raises(Fatal, match="Kafka was restored"):
        async with harness.database.transaction() as connection:
            await check(connection, recorded(harness))


async def test_an_owner_decides_nothing_before_the_proof(harness: PublisherHarness) -> None:
    stop = asyncio.Event()
    async with harness.publishing() as outgoing:
        proven = asyncio.create_task(outgoing.proven(stop))
        await asyncio.sleep(0)
        assert not proven.done()
        assert await asyncio.wait_for(proven, 60)
    stop.set()
    unproven = Outgoing(harness.lane, 1, asyncio.Event(), undecided=False)
    assert not await unproven.proven(stop)


async def test_a_marker_of_an_earlier_version_is_adopted(harness: PublisherHarness) -> None:
    await harness.decide(3)
    async with harness.publishing():
        await all_trimmed(harness)
    async with await TransactionalProducer.open(harness.client, f"publisher-{LANE}") as producer:
        place = TopicPartition(harness.topics.name(Topic.PUBLISHED), LANE)
        await producer.commit([OutRecord(*place, marker.key_of(LANE), marker.encode(Marker(3)))])
    async with harness.database.transaction() as connection:
        await connection.execute("DELETE FROM outbox_batches")
    await harness.decide(4)
    async with harness.publishing():
        await all_trimmed(harness)
    await exactly_once(harness)


async def halted(harness: PublisherHarness, because: str) -> None:
    with pytest.raises(Fatal, match=because):
        await asyncio.wait_for(harness.publish_forever(), 30)
    with pytest.raises(Fatal, match=because):
        await claim(harness.database, LANE, uuid4())


# -- services away ----------------------------------------------------------------------------


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


# -- one publisher for several lanes ------------------------------------------------------------


async def test_a_taken_lane_leaves_the_others_to_their_publisher(
    harness: PublisherHarness,
) -> None:
    """Who takes one lane of a living process fences its publisher, which goes on with the rest."""
    before = count_of("fenced")
    other = await other_lane(harness)
    old = harness.publisher(replace(PACE, look_every=1e9))
    async with (
        old.publishing(harness.lane, undecided=True) as taken,
        old.publishing(other, undecided=True) as kept,
    ):
        await taken.hand_over(await harness.decide(10))
        await kept.hand_over(await decide_on(harness, other, 1, 10))
        await all_trimmed(harness)
        await harness.claim()
        async with harness.publishing() as new:
            await new.hand_over(await harness.decide(10))
            assert await new.published(60)
            await kept.hand_over(await decide_on(harness, other, 11, 10))
            assert await kept.published(60)
            with pytest.raises(LaneLost):
                await asyncio.wait_for(taken.lost(), 60)
            await kept.hand_over(await decide_on(harness, other, 21, 5))
            assert await kept.published(60)
    by_lane: dict[bytes, list[int]] = {b"2": [], b"3": []}
    for record in await harness.published():
        by_lane[dict(record.headers)["lane"]] += sequence([record])
    assert sorted(by_lane[b"2"]) == list(range(1, 21))
    assert sorted(by_lane[b"3"]) == list(range(1, 26))
    assert count_of("fenced") == before + 1


async def test_a_lane_that_was_given_up_in_good_order_fences_nobody(
    harness: PublisherHarness,
) -> None:
    before = count_of("fenced")
    other = await other_lane(harness)
    old = harness.publisher()
    async with old.publishing(other, undecided=True) as kept:
        async with old.publishing(harness.lane, undecided=True) as given_up:
            await given_up.hand_over(await harness.decide(10))
            assert await given_up.published(60)
        await harness.claim()
        async with harness.publisher().publishing(harness.lane, undecided=False) as new:
            await new.hand_over(await harness.decide(5))
            assert await new.published(60)
        await kept.hand_over(await decide_on(harness, other, 1, 5))
        assert await kept.published(60)
    assert count_of("fenced") == before


async def test_a_publisher_of_an_earlier_version_is_fenced(harness: PublisherHarness) -> None:
    """Its transactional id was that of the lane, and its barriers did not name it."""
    place = harness.topics.name(Topic.PUBLISHED), LANE
    earlier = await TransactionalProducer.open(harness.client, f"publisher-{LANE}")
    await earlier.commit([OutRecord(*place, BARRIER, uuid4().hex.encode())])
    async with harness.publisher().publishing(harness.lane, undecided=False) as outgoing:
        await outgoing.hand_over(await harness.decide(3))
        assert await outgoing.published(60)
        with pytest.raises(Fenced):
            await earlier.commit([OutRecord(*place, b"late", b"")])
    await earlier.close()
    await exactly_once(harness)


async def other_lane(harness: PublisherHarness) -> Lane:
    """Claim another lane than that of the harness."""
    return (await claim(harness.database, LANE + 1, uuid4())).row


async def decide_on(harness: PublisherHarness, lane: Lane, first: int, count: int) -> list[OutRow]:
    """Commit rows of ``lane`` from ``first`` on, and return them."""
    stamp = uuid4()
    rows = [
        OutRow(out_seq, "events", lane.lane, b"key", (), b"value", stamp)
        for out_seq in range(first, first + count)
    ]
    async with harness.database.transaction() as connection:
        seen = await lanes.read(connection, lane.lane)
        assert seen is not None
        await outbox.append(connection, {lane.lane: rows})
        new = replace(seen, last_out_seq=first + count - 1)
        assert await lanes.advance(connection, [seen], [new])
    return rows
