"""The initial search and all syncs that it led to: each partition says once that it has them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from consumer.config.retries import RetrySettings
from consumer.config.settings import ScopeSettings, WorkerSettings
from consumer.kafka.topics import Topic
from consumer.scope import Repos
from simulator.repo import Repo
from tests.field.product import Product
from tests.support.deployment import PARTITIONS
from tests.support.pds import COLLECTION
from tests.support.web import response

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

EVERY = 0.3


async def told(product: Product) -> list[list[dict[str, Any]]]:
    """Return the events of each partition, in order."""
    partitions: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
    for record in await product.committed(Topic.EVENTS):
        if record.value is not None:
            partitions[record.partition].append(orjson.loads(record.value))
    return partitions


def whole(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "snapshot_complete"]


async def all_whole(product: Product) -> list[dict[str, Any]]:
    """Wait until each partition has its snapshot; return what says so, once of each."""

    async def look() -> bool:
        return all(map(whole, await told(product)))

    await product.eventually(look, what="every partition has its snapshot")
    found = [whole(events) for events in await told(product)]
    assert {len(each) for each in found} == {1}
    return [each[0] for each in found]


def listed(product: Product, repos: list[Repo]) -> None:
    source, _ = product.network.sources
    source.lists(COLLECTION, [repo.account.did for repo in repos])


def paths_before(events: list[dict[str, Any]], did: str) -> int:
    """Count the records of an account that stand before the partition's snapshot."""
    types = [event["type"] for event in events]
    before = events[: types.index("snapshot_complete")]
    return sum(event["type"] == "record" and event["did"] == did for event in before)


async def test_a_partition_has_its_snapshot_when_all_that_was_listed_is_synced(
    fresh: Product,
) -> None:
    network = fresh.network
    fresh.changed["worker"] = WorkerSettings(progress_every=EVERY)
    accounts = [await network.account(f"listed {number}", records=5) for number in range(9)]
    repos = [repo for _, repo in accounts]
    listed(fresh, repos)
    slow_host, slow = accounts[0]
    slow_did = slow.account.did
    slow_lane = fresh.topics.partition_of(slow_did)
    release = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.write(response(200, slow.whole()))
        await writer.drain()

    slow_host.serves(slow, slowly)
    _, live = await network.account("live")
    async with fresh.running():
        await network.commit(live)  # the first epoch begins

        async def others() -> bool:
            has = [bool(whole(events)) for events in await told(fresh)]
            assert not has[slow_lane]
            return sum(has) == PARTITIONS - 1

        await fresh.eventually(others, what="all partitions but one have their snapshot")
        release.set()
        found = await all_whole(fresh)
        await fresh.agrees(*repos)
    assert len({event["snapshot"] for event in found}) == 1
    assert {(event["failed"], event["unreadHosts"]) for event in found} == {(0, 0)}
    partitions = await told(fresh)
    for repo in repos:
        did = repo.account.did
        assert paths_before(partitions[fresh.topics.partition_of(did)], did) == 5
    for event in found:
        assert event["beganAt"] <= event["searchedAt"] <= event["time"]

    async with fresh.running():  # and not again
        await network.commit(live)

        async def said_more() -> bool:
            newest = [
                [event["seq"] for event in events if event["type"] == "progress"][-1]
                for events in await told(fresh)
            ]
            return newest == [network.seq] * PARTITIONS

        await fresh.eventually(said_more, what="every lane has spoken since")
        assert await all_whole(fresh) == found


async def test_a_host_that_is_away_keeps_nobody_waiting_for_long(fresh: Product) -> None:
    network = fresh.network
    fresh.changed["worker"] = WorkerSettings(progress_every=EVERY)
    fresh.changed["retries"] = RetrySettings(
        automatic_first=0.3, attempt_longest=1.0, host_longest=1.0, behind_give_up_after=3.0
    )
    accounts = [await network.account(f"reachable {number}") for number in range(3)]
    dead_host, dead = await network.account("dead")
    dead_host.serves(dead, response(500))
    listed(fresh, [repo for _, repo in accounts] + [dead])
    _, live = await network.account("live")
    async with fresh.running():
        await network.commit(live)
        found = await all_whole(fresh)
        await fresh.agrees(*(repo for _, repo in accounts))
        failed = {event["lane"]: event["failed"] for event in found if event["failed"]}
        assert failed == {fresh.topics.partition_of(dead.account.did): 1}


async def test_repositories_that_the_settings_name_are_a_snapshot_too(fresh: Product) -> None:
    network = fresh.network
    repos = [(await network.account(f"named {number}"))[1] for number in range(5)]
    dids = tuple(repo.account.did for repo in repos)
    fresh.changed["worker"] = WorkerSettings(progress_every=EVERY)
    fresh.changed["scope"] = ScopeSettings(repos=Repos.LISTED, dids=dids)
    async with fresh.running():
        await network.commit(repos[0])
        found = await all_whole(fresh)
        assert sum(event["repositories"] for event in found) == len(repos)
        partitions = await told(fresh)
    for repo in repos:
        did = repo.account.did
        assert paths_before(partitions[fresh.topics.partition_of(did)], did) >= 3


async def test_without_a_source_that_serves_the_listing_nothing_is_complete(
    fresh: Product,
) -> None:
    network = fresh.network
    fresh.changed["worker"] = WorkerSettings(progress_every=EVERY)
    for source in network.sources:
        source.says(COLLECTION, response(404))
    _, live = await network.account("live")
    async with fresh.running():
        await network.commit(live)

        async def refused() -> bool:
            sql = "SELECT count(*) FROM searches WHERE listing = %s AND state = 'unsupported'"
            return await fresh.rows(sql, [COLLECTION]) == [(len(network.sources),)]

        await fresh.eventually(refused, what="no source serves the listing")

        async def said_since() -> bool:
            said = [e for events in await told(fresh) for e in events if e["type"] == "progress"]
            return len(said) > 2 * PARTITIONS

        await fresh.eventually(said_since, what="the lanes have spoken since")
        assert not any(map(whole, await told(fresh)))
        assert await fresh.rows("SELECT searched_at FROM snapshots") == [(None,)]
