"""Many repositories of a real PDS at once: the whole index published again, selectors, cancel."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic
from demo.compare import fold_events, read_rows
from demo.local_network import LocalNetwork
from demo.observe import Observer, observing
from tests.network.test_repair import CATCH_UP, agreed, environment_of, none_open, people
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

SUBMISSION = "pub.chive.eprint.submission"


async def ends_of(observer: Observer) -> dict[TopicPartition, int]:
    """Return where each partition of the events ends."""
    name = observer.topics.name(Topic.EVENTS)
    places = [TopicPartition(name, number) for number in range(observer.topics.partitions)]
    async with await PartitionReader.open(observer.client, dict.fromkeys(places)) as reader:
        return {place: latest for place, (_, latest) in (await reader.bounds()).items()}


async def dids(observer: Observer, sql: str, *parameters: Any) -> set[str]:
    async with observer.database.transaction() as connection:
        rows = await connection.execute(sql, list(parameters))
        return {did for (did,) in await rows.fetchall()}


@pytest.mark.timeout(900)
async def test_a_lost_topic_is_published_again_and_selectors_pick_their_repositories(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    environment = environment_of(deployment, pds_network)
    process = await consumer("run", env=environment)
    await process.saying("relay_connected", deadline=90)

    async def carried_out(*arguments: str) -> dict[str, Any]:
        command = await consumer("sync", *arguments, "--json", env=environment)
        code = await command.ended(240)
        parent: dict[str, Any] = json.loads(command.out)
        assert parent["status"] == "completed", parent
        assert code == bool(parent["children"]["failed"]), command
        return parent

    async with (
        observing(pds_network, deployment.settings()) as observer,
        people(pds_network, "many"),
    ):
        await agreed(observer)
        await eventually(lambda: none_open(observer), what="nothing is open", deadline=120)
        active = await dids(observer, "SELECT did FROM repos WHERE status = 'active'")
        away = await dids(
            observer, "SELECT did FROM repos WHERE status NOT IN ('active', 'deleted')"
        )
        assert len(active) > 1

        since = await ends_of(observer)
        parent = await carried_out("--all", "--emit-all")
        counts = parent["children"]
        assert counts["expected"] == counts["done"] == len(active | away)
        assert counts["completed"] == len(active)
        rows = await read_rows(observer.database)
        fold = await fold_events(observer.client, observer.topics, since)
        assert fold.problems == []
        expected = {uri: cid for uri, cid in rows.cids.items() if uri.split("/")[2] in active}
        assert len(expected) > len(active)
        assert {uri: entry.cid for uri, entry in fold.records.items()} == expected
        assert (parent["created"], parent["deleted"]) == (0, 0)

        async def children(parent: dict[str, Any]) -> set[str]:
            return await dids(
                observer, "SELECT did FROM operations WHERE parent = %s", parent["id"]
            )

        writers = {uri.split("/")[2] for uri in rows.cids if f"/{SUBMISSION}/" in uri}
        parent = await carried_out("--collection", SUBMISSION)
        assert await children(parent) == writers & (active | away)
        assert await children(await carried_out("--failed")) == away
        host = pds_network.endpoints.pds
        assert await children(await carried_out("--host", host)) == active | away

        left = await consumer("sync", "--all", "--no-wait", env=environment)
        assert await left.ended(60) == 0
        stop = await consumer("cancel", left.out.strip(), env=environment)
        code = await stop.ended(60)
        assert ("cancelled" in stop.out) == (code == 0), stop  # or it was quicker
        await eventually(lambda: none_open(observer), what="nothing is open", deadline=120)
        left_behind = await observer.caught_up(CATCH_UP)
        assert left_behind.nothing, str(left_behind)
        assert (await observer.compared()).differences == []
    assert await process.stopped() == 0
