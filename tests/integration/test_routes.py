"""Events in several topics: together what one topic would hold, exactly once, also after a kill."""

from __future__ import annotations

import os
import signal
from collections import defaultdict

import pytest

from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from procedures.syntax import cid_text
from simulator.network import Mix, Network
from tests.support.consumer import Consumer, Start
from tests.support.eventually import eventually
from tests.support.harness import out_seq
from tests.support.kafka import committed
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

EPRINT, NODE, CARD = (
    "pub.chive.eprint.submission",
    "pub.chive.graph.node",
    "network.cosmik.card",
)
ROUTES = {"pub.chive.eprint.*": "eprints", "pub.chive.*": "chive"}
TOPIC = {EPRINT: "eprints", NODE: "chive", CARD: "events"}


async def by_topic(harness: WorkerHarness) -> dict[str, list[Record]]:
    """Return the records of each topic of events, by its name without the prefix."""
    return {
        name.removeprefix(harness.topics.prefix): await committed(
            harness.client, name, range(harness.topics.partitions)
        )
        for name in harness.topics.event_topics
    }


def content(record: Record) -> tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]:
    return record.key, record.value, tuple(record.headers)


async def each_in_its_topics(harness: WorkerHarness) -> None:
    """Assert that every event is in its topics, once in each, in the partition of its lane."""
    found = await by_topic(harness)
    places: dict[tuple[int, int], set[str]] = defaultdict(set)
    known: dict[tuple[int, int], Record] = {}
    for topic, records in found.items():
        numbers = [out_seq(record) for record in records]
        assert numbers == sorted(set(numbers))
        for number, record in zip(numbers, records, strict=True):
            assert record.partition == number[0]
            assert content(record) == content(known.setdefault(number, record))
            places[number].add(topic)
    kinds = set()
    for number, topics in places.items():
        headers = dict(known[number].headers)
        collection = headers.get("collection", b"").decode()
        assert topics == ({TOPIC[collection]} if collection else set(found)), headers
        kinds.add((headers["type"], collection, known[number].value is None))
    assert {kind for kind, *_ in kinds} >= {b"record", b"account", b"identity", b"sync"}
    assert {(b"record", collection, True) for collection in TOPIC} <= kinds  # tombstones, too
    rows = await harness.rows("SELECT lane, last_out_seq FROM lanes")
    through = {lane: last for lane, last in rows if lane < harness.topics.partitions}
    assert sorted(places) == [(n, i) for n in sorted(through) for i in range(1, through[n] + 1)]


@pytest.mark.timeout(400)
async def test_kills_lose_and_repeat_nothing_in_any_topic(
    harness: WorkerHarness, consumer: Start
) -> None:
    harness.route(ROUTES)
    mix = Mix(sync=0.02, identity=0.02, status=0.02)
    network = Network(21, accounts=10, collections=tuple(TOPIC), mix=mix)
    harness.keys = network.keys
    environment = {
        **harness.deployment.environment(),
        "CHIVE_SCOPE__COLLECTIONS": ",".join(TOPIC),
        "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
        "CHIVE_WORKER__PROGRESS_EVERY": "0",
    }

    async def something_was_published(before: int) -> bool:
        return len(await harness.committed(Topic.EVENTS)) > before

    async with harness.fetching():
        process: Consumer = await consumer("run", "--role", "worker", env=environment)
        await process.saying("lane_claimed", deadline=90)
        await harness.publish(network.introduce(3))
        for _ in range(3):
            before = len(await harness.committed(Topic.EVENTS))
            await harness.publish(network.frames(150))
            await eventually(
                lambda before=before: something_was_published(before),  # type: ignore[misc]
                what="the first events of these frames",
                deadline=90,
            )
            os.kill(process.pid, signal.SIGKILL)  # between a decision and its marker, or anywhere
            await process.ended()
            process = await consumer("run", "--role", "worker", env=environment)
        await harness.publish(network.frames(50))
        await harness.settled()
    truth = {
        did: {path: cid_text(cid) for path, (cid, _) in records.items()}
        for did, records in network.truth().items()
    }
    assert await harness.stored() == {did: repo for did, repo in truth.items() if repo}
    assert await harness.folded() == await harness.stored()
    await each_in_its_topics(harness)
