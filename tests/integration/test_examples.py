"""The programs of ``examples`` keep the index that the topic adds up to, however often they die."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from consumer.kafka.client import MAX_RECORD_BYTES, Client
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.scope import Scope
from simulator.frames import account_frame, commit_frame
from simulator.network import Network
from simulator.repo import Repo, Write
from tests.support import examples
from tests.support.deployment import PARTITIONS, deployed
from tests.support.eventually import eventually
from tests.support.examples import Example, fold
from tests.support.kafka import configure
from tests.support.proxy import LOOPBACK, TcpProxy
from tests.support.services import Services
from tests.support.snapshots import chunks_of
from tests.support.worker import WorkerHarness

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

COLLECTION = "pub.chive.eprint.submission"
KILLS = 4
AWAY = 12.0  # seconds: longer than KafkaJS tries by default
EXAMPLES: dict[str, examples.Build] = {
    "go": examples.go,
    "java": examples.java,
    "python": examples.python,
    "typescript": examples.typescript,
}


@dataclass
class Topics:
    """A topic of events that all examples read, on a deployment of its own."""

    harness: WorkerHarness
    network: Network

    @property
    def events(self) -> str:
        return self.harness.topics.name(Topic.EVENTS)

    @property
    def servers(self) -> str:
        return self.harness.deployment.bootstrap_servers

    async def records(self) -> list[Record]:
        return await self.harness.committed(Topic.EVENTS)

    # -- what happens in the network ---------------------------------------------------

    async def write(self, repo: Repo, *writes: Write, heard: bool = True) -> None:
        commit = repo.commit(writes)
        self.network.seq += 1
        if heard:
            await self.harness.publish([commit_frame(self.network.seq, commit)])

    async def status(self, repo: Repo, status: str) -> None:
        self.network.seq += 1
        did, active = repo.account.did, status == "active"
        self.network.inactive ^= {did}
        stated = None if active else status
        await self.harness.publish(
            [account_frame(self.network.seq, did, active=active, status=stated)]
        )
        await self.harness.consumed()

    async def sync(self, *repos: Repo, name: str, emit_all: bool = False) -> None:
        scope = Scope(self.harness.settings.scope.collections)
        for repo in repos:
            did = repo.account.did
            [(want,)] = await self.harness.rows("SELECT want FROM repos WHERE did = %s", [did])
            operation = f"{name} {did}"
            await self.harness.execute(_RUNNING, [operation, did])
            settings = {"size": 200, "resync_generation": want, "emit_all": emit_all}
            await self.harness.tell(*chunks_of(repo, scope, operation, **settings))
        await self.harness.consumed()

    async def produce(self, *records: OutRecord) -> None:
        async with await TransactionalProducer.open(self.harness.client, "test-other") as producer:
            await producer.commit(records)

    async def compact(self) -> None:
        """Have Kafka compact what is there, and go on without: tombstones stay."""
        keys = {record.key for record in await self.records()}
        await configure(self.harness.client, self.events, _COMPACTED)
        # The segment that is written is never compacted: each partition begins another one.
        ends = [OutRecord(self.events, n, b"lane/%d" % n, None) for n in range(PARTITIONS)]
        await self.produce(*ends)

        async def compacted() -> bool:
            return len(await self.records()) == len(keys) + PARTITIONS

        await eventually(compacted, what="the topic is compacted", deadline=90.0, every=1.0)
        await configure(self.harness.client, self.events, _KEPT)

    async def abort(self) -> None:
        """Write tombstones of much of it that no reader of committed records sees, twice."""
        producer = self.harness.client.producer(self.harness.client.scoped("test-aborted"))
        await producer.start()
        try:
            for _ in range(2):
                await producer.begin_transaction()
                for record in (await self.records())[::20]:
                    await producer.send(self.events, None, record.key, record.partition)
                await producer.flush()
                await producer.abort_transaction()
        finally:
            await producer.stop()


_COMPACTED = {
    "cleanup.policy": "compact",
    "max.message.bytes": str(MAX_RECORD_BYTES),
    "segment.ms": "1",
    "min.cleanable.dirty.ratio": "0.001",
    "delete.retention.ms": str(7 * 86_400_000),
}
_KEPT = {**_COMPACTED, "segment.ms": "86400000", "min.compaction.lag.ms": "86400000"}

_RUNNING = """
INSERT INTO operations (id, type, did, lane, automatic, status, phase, attempts, started_at)
VALUES (%s, 'didSync', %s, 0, false, 'running', 'injected', 1, now())
"""


@pytest.fixture(scope="module")
async def topics(services: Services) -> AsyncIterator[Topics]:
    """Write a topic in which everything has happened that an index must bear."""
    network = Network(7, accounts=8)
    with tempfile.TemporaryDirectory(prefix="chive-examples-") as directory:
        async with deployed(services, Path(directory)) as deployment:
            client = Client(deployment.kafka())
            async with (
                await TransactionalProducer.open(client, "test-relay") as relay,
                await TransactionalProducer.open(client, "test-fetcher") as fetcher,
                WorkerHarness.opened(deployment, client, relay=relay, fetcher=fetcher) as harness,
                harness.fetching(),
                harness.working(),
            ):
                harness.keys = network.keys
                topics = Topics(harness, network)
                await happen(topics)
                yield topics


async def happen(topics: Topics) -> None:
    harness, network = topics.harness, topics.network
    returned, hidden, deleted, stale, whole, *_ = network.repos.values()
    await harness.publish(network.introduce(300))
    await harness.settled()
    await topics.sync(*network.repos.values(), name="first")
    await topics.status(returned, "deactivated")
    await harness.publish(network.frames(100))
    await topics.status(hidden, "takendown")
    await topics.status(returned, "active")
    await topics.sync(returned, name="returned")
    await topics.sync(whole, name="again", emit_all=True)
    await harness.publish(network.frames(100))
    await harness.settled()
    await topics.compact()
    await harness.publish(network.frames(100))
    await topics.write(stale, create("odd", **ODD))
    await topics.write(stale, create("cbor", n=0.5))
    await topics.write(stale, create("lost"), heard=False)
    await topics.write(stale, create("found"))
    await topics.status(deleted, "deleted")
    await harness.settled()
    await topics.abort()
    await topics.produce(*unusual(topics))


def create(rkey: str, **fields: Any) -> Write:
    return Write("create", f"{COLLECTION}/{rkey}", {"$type": COLLECTION, **fields})


ODD: dict[str, Any] = {
    "text": "a\0b\\u0000\\\0",
    "n": 2**53 + 1,
    "empty": "",
    "ü": ["\u2028", None],
}


def unusual(topics: Topics) -> list[OutRecord]:
    """Return what later versions may add, and a tombstone whose delete compaction has removed."""
    did = "did:plc:abcdefghijklmnopqrstuvwx"
    gone, kept = (f"at://{did}/{COLLECTION}/{name}" for name in ("gone", "kept"))
    event = {
        "v": 1,
        "type": "record",
        "did": did,
        "rev": "3l4k2h7zqmc2a",
        "collection": COLLECTION,
        "action": "create",
        "cid": "bafyreigone",
        "record": {},
        "later": {"of": ["a", "newer", "version"]},
    }
    values: list[tuple[str, Any]] = [
        (gone, event | {"uri": gone}),
        (kept, event | {"uri": kept}),
        ("lane/1", progress("2026-07-04T14:39:14.500Z")),
        ("lane/1/snapshot", {"v": 1, "type": "snapshot_complete", "lane": 1, "snapshot": "a"}),
        ("lane/1", progress("2026-07-04T14:39:24.503Z")),
        (f"{did}#later", {"v": 1, "type": "later", "did": did}),
        (f"{did}#later", None),
        (gone, None),
        (gone, None),
    ]
    return [
        OutRecord(
            topics.events, 1, key.encode(), None if value is None else json.dumps(value).encode()
        )
        for key, value in values
    ]


def progress(as_of: str) -> dict[str, Any]:
    return {"v": 1, "type": "progress", "lane": 1, "seq": 7, "asOf": as_of, "lag": 0.5}


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_keeps_what_the_topic_adds_up_to(
    name: str, topics: Topics, tmp_path: Path
) -> None:
    example = await EXAMPLES[name](tmp_path, topics.harness.deployment.dsn)
    before = await topics.records()
    total = sum(ends(before).values())
    chance = random.Random(name)

    inside = 0
    for _ in range(KILLS):
        async with example.running(topics.servers, topics.events) as process:
            await reached(example, process, min(example.done() + 1, total))
            await asyncio.sleep(chance.random() * 0.01)
        inside += agree(example, before) < total
    assert inside >= 2  # it was killed on its way

    async with example.running(topics.servers, topics.events) as process:
        await reached(example, process, total)
        assert agree(example, before) == total
        # It goes on with what comes.
        repo = list(topics.network.repos.values())[-1]
        await topics.write(repo, create(name))
        await reached(example, process, total + 1)
        after = await topics.records()
        await reached(example, process, sum(ends(after).values()))
    assert agree(example, after) == sum(ends(after).values())
    await is_what_the_consumer_holds(topics, example)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_does_not_go_on_where_it_would_be_wrong(
    name: str, topics: Topics, tmp_path: Path
) -> None:
    example = await EXAMPLES[name](tmp_path, topics.harness.deployment.dsn)
    place = topics.servers, topics.events

    # Of two processes on one database, one ends at the next event.
    async with example.running(*place) as one, example.running(*place) as other:
        ended = [asyncio.create_task(each.communicate()) for each in (one, other)]
        async with asyncio.timeout(90.0):
            while not (done := (await asyncio.wait(ended, timeout=0.5))[0]):
                await topics.produce(OutRecord(topics.events, 0, b"nobody", None))
        said = b"".join(out for each in done for out, _ in [each.result()])
        assert b"another process" in said
    agree(example, await topics.records())

    example.execute("UPDATE offsets SET at = at - 8 * 86400")
    assert "too long" in await example.refusal(*place)
    # The topic was made anew: it does not have the offset yet.
    example.execute("UPDATE offsets SET at = at + 8 * 86400, next = 1000000000")
    assert "range" in (await example.refusal(*place)).lower()
    assert example.done() == PARTITIONS * 1_000_000_000


async def test_the_examples_wait_for_a_kafka_that_is_away(
    topics: Topics, kafka_proxy: TcpProxy, tmp_path: Path
) -> None:
    place = f"{LOOPBACK}:{kafka_proxy.port}", topics.events
    total = sum(ends(await topics.records()).values())
    async with AsyncExitStack() as stack:
        running = []
        for name, build in EXAMPLES.items():
            (folder := tmp_path / name).mkdir()
            with suppress(pytest.skip.Exception):  # the other tests say what is not installed
                example = await build(folder, topics.harness.deployment.dsn)
                process = await stack.enter_async_context(example.running(*place))
                running.append((example, process))
        await asyncio.gather(*(reached(*each, total) for each in running))
        await kafka_proxy.stop()
        await asyncio.sleep(AWAY)
        await kafka_proxy.start()
        await topics.produce(OutRecord(topics.events, 0, b"nobody", None))
        await asyncio.gather(*(reached(*each, total + 1) for each in running))
    records = await topics.records()
    for example, _ in running:
        agree(example, records)


async def is_what_the_consumer_holds(topics: Topics, example: Example) -> None:
    ours = {
        f"at://{did}/{path}": cid
        for did, repo in (await topics.harness.stored()).items()
        for path, cid in repo.items()
    }
    index = example.stored()
    theirs = {uri: cid for uri, (_, cid, _) in index.records.items() if not uri.endswith("/kept")}
    assert theirs == ours
    returned, hidden, deleted, stale, *_ = topics.network.repos
    assert index.accounts[returned] == (True, "active", False)
    assert index.accounts[hidden] == (False, "takendown", False)
    assert index.accounts[deleted][:2] == (False, "deleted")
    assert index.accounts[stale] == (True, "active", True)
    assert index.lanes == {1: ("2026-07-04T14:39:24.503Z", "a")}
    owners = {uri.split("/")[2] for uri in index.shown}
    assert {returned, stale} <= owners
    assert not {hidden, deleted} & owners
    assert hidden in {uri.split("/")[2] for uri in index.records}
    odd = {"$type": COLLECTION, **ODD, "text": ODD["text"].replace("\0", example.nul)}
    assert index.shown[f"at://{stale}/{COLLECTION}/odd"] == (odd, True)
    assert index.shown[f"at://{stale}/{COLLECTION}/cbor"] == (None, True)


async def reached(example: Example, process: asyncio.subprocess.Process, offset: int) -> None:
    """Wait until the example has stored that it has come to ``offset``, of all partitions."""

    def look() -> bool:
        if process.returncode is not None:
            pytest.fail(f"the example has ended with {process.returncode}")
        return example.done() >= offset

    await eventually(look, what=f"the example at {offset}", deadline=90.0, every=0.002)


def agree(example: Example, records: list[Record]) -> int:
    """Hold what is stored against the records that it says to have taken in; return how far."""
    found = example.stored()
    assert found == fold(records, found.offsets, example.nul)
    return found.done


def ends(records: list[Record]) -> dict[int, int]:
    return {record.partition: record.offset + 1 for record in records}
