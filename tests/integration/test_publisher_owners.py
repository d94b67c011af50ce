"""Who may publish: new owners, several lanes, and states that were restored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from uuid import uuid4

import pytest

from consumer.errors import Fatal
from consumer.kafka.compacted import BARRIER
from consumer.kafka.reader import TopicPartition
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import Fenced, OutRecord, TransactionalProducer
from consumer.lanes import marker
from consumer.lanes.errors import LaneLost
from consumer.lanes.marker import Marker
from consumer.lanes.outgoing import Outgoing
from consumer.lanes.owner import claim
from consumer.store import lanes, outbox
from consumer.store.deployment import check
from consumer.store.rows import Lane, OutRow
from tests.support.deployment import Deployment
from tests.support.publishing import (
    LANE,
    PACE,
    PublisherHarness,
    all_trimmed,
    claimed,
    count_of,
    exactly_once,
    recorded,
    sequence,
)

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(
    deployment: Deployment, request: pytest.FixtureRequest
) -> AsyncIterator[PublisherHarness]:
    async with claimed(deployment, getattr(request, "param", {})) as harness:
        yield harness


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
