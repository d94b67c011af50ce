"""What the lanes say of themselves: a quiet network is not a stuck consumer, and both show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import psycopg
import pytest

from consumer.config.settings import WorkerSettings
from consumer.kafka.topics import Topic
from simulator.frames import commit_frame
from simulator.repo import Write
from tests.field.network import now
from tests.field.product import Product
from tests.support.deployment import PARTITIONS
from tests.support.web import response

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

EVERY = 0.3
UNWANTED = "app.bsky.feed.post"


@pytest.fixture
async def talking(fresh: Product) -> AsyncIterator[Product]:
    """Run a consumer whose lanes say often how far they are."""
    fresh.changed["worker"] = WorkerSettings(progress_every=EVERY)
    async with fresh.running():
        yield fresh


async def said(product: Product, lane: int | None = None) -> list[dict[str, Any]]:
    """Return the progress of a lane, or of all, that of each in order; it never falls."""
    records = await product.committed(Topic.EVENTS)
    events = [orjson.loads(record.value) for record in records if record.value is not None]
    found = [e for e in events if e["type"] == "progress" and lane in (None, e["lane"])]
    for number in range(PARTITIONS):
        places = [(e["epoch"], e["seq"]) for e in found if e["lane"] == number]
        assert places == sorted(places)
    return found


async def newest(product: Product) -> dict[int, dict[str, Any]]:
    return {event["lane"]: event for event in await said(product)}


async def all_reach(product: Product, seq: int) -> None:
    """Wait until every lane says that it is complete up to ``seq``."""

    async def look() -> bool:
        lanes = await newest(product)
        return len(lanes) == PARTITIONS and all(e["seq"] == seq for e in lanes.values())

    await product.eventually(look, what=f"every lane is complete up to {seq}")


async def test_quiet_lanes_say_that_they_have_all_and_the_lag_stays_small(
    talking: Product,
) -> None:
    network = talking.network
    _, repo = await network.account("quiet")
    await network.commit(repo)
    await network.commit(repo, network.write(UNWANTED))
    await all_reach(talking, network.seq)
    before = await newest(talking)

    async def later() -> bool:
        lanes = await newest(talking)
        return all(lanes[lane]["asOf"] > before[lane]["asOf"] for lane in lanes)

    await talking.eventually(later, what="the quiet lanes are complete up to a later moment")
    for event in (await newest(talking)).values():
        assert event["lag"] < 30.0
        assert event["relay"] == network.relay.url
    await talking.agrees(repo)


async def test_a_relay_that_is_away_makes_the_lag_grow(talking: Product) -> None:
    network = talking.network
    _, repo = await network.account("alone")
    await network.commit(repo)
    await all_reach(talking, network.seq)
    async with network.relay.away():

        async def grows() -> bool:
            same: dict[int, list[dict[str, Any]]] = {}
            for event in await said(talking):
                same.setdefault(event["lane"], []).append(event)
            ends = [events[-2:] for events in same.values() if len(events) > 1]
            return len(ends) == PARTITIONS and all(
                one["asOf"] == two["asOf"] and two["lag"] > one["lag"] + EVERY for one, two in ends
            )

        await talking.eventually(grows, what="the lag of every lane grows")
    await network.commit(repo)
    await all_reach(talking, network.seq)


async def test_a_frame_that_waits_for_a_key_holds_its_lane_back(talking: Product) -> None:
    network = talking.network
    _, waiting = await network.account("waiting")
    _, other = await network.account("other")
    did = waiting.account.did
    lane = talking.topics.partition_of(did)
    document = network.directory.replies.pop(f"/{did}")
    network.directory.replies[f"/{did}"] = response(500)
    await network.commit(waiting)
    held = network.seq
    await network.commit(other)

    async def is_held() -> bool:
        lanes = await newest(talking)
        there = len(lanes) == PARTITIONS and lanes[lane]["parked"] == 1
        free = [e["seq"] for number, e in lanes.items() if number != lane]
        return there and set(free) == {network.seq}

    await talking.eventually(is_held, what="one lane waits, and the others have all")
    assert {e["seq"] for e in await said(talking, lane) if e["parked"]} == {held - 1}
    network.directory.replies[f"/{did}"] = document
    await all_reach(talking, network.seq)
    await talking.agrees(waiting, other)


async def test_frames_that_are_not_decided_hold_every_lane_back(talking: Product) -> None:
    network = talking.network
    _, repo = await network.account("stopped")
    await network.commit(repo)
    await all_reach(talking, network.seq)
    lane = talking.topics.partition_of(repo.account.did)
    dsn = talking.deployment.dsn
    async with await psycopg.AsyncConnection.connect(dsn) as holder:
        await holder.execute(f'SET search_path TO "{await schema(talking)}"'.encode())
        await holder.execute("SELECT FROM lanes WHERE lane = %s FOR UPDATE", [lane])
        await network.commit(repo)

        async def received() -> bool:
            return await talking.rows("SELECT max(seq) FROM received") == [(network.seq,)]

        await talking.eventually(received, what="the tailer has the frame")
        await asyncio.sleep(5 * EVERY)
        assert all(event["seq"] < network.seq for event in await said(talking, lane))
        await holder.rollback()
    await all_reach(talking, network.seq)


async def schema(product: Product) -> str:
    ((name,),) = await product.rows("SELECT current_schema()")
    return str(name)


async def test_a_restart_goes_on_where_it_was(talking: Product) -> None:
    network = talking.network
    _, repo = await network.account("again")
    await network.commit(repo)
    await all_reach(talking, network.seq)
    await talking.stop()
    repo.commit([network.write()])
    commit = repo.commit([Write("create", f"{UNWANTED}/late", {"n": 1})])
    seq = network.next()
    await network.relay.publish([(seq, commit_frame(seq, commit, now()))])
    await talking.start()
    await all_reach(talking, network.seq)
