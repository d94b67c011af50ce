"""A topic of events in which everything has happened that a reader must bear."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consumer.kafka.client import MAX_RECORD_BYTES, Client
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.scope import Scope
from simulator.frames import account_frame, commit_frame
from simulator.network import Network
from simulator.repo import Repo, Write
from tests.support.deployment import PARTITIONS, deployed
from tests.support.eventually import eventually
from tests.support.kafka import configure
from tests.support.services import Services
from tests.support.snapshots import chunks_of
from tests.support.worker import WorkerHarness

COLLECTION = "pub.chive.eprint.submission"


@dataclass
class Topics:
    """The topic, on a deployment of its own."""

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


@asynccontextmanager
async def eventful(services: Services) -> AsyncIterator[Topics]:
    """Give the topic during the block, written."""
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
        "seq": 0,
        "time": "2026-07-04T14:39:14.500Z",
        "did": did,
        "repo": did,
        "rev": "3l4k2h7zqmc2a",
        "collection": COLLECTION,
        "action": "create",
        "cid": "bafyreigone",
        "prev": None,
        "record": {},
        "live": True,
        "source": "firehose",
        "operationId": None,
        "pds": None,
        "relay": None,
        "later": {"of": ["a", "newer", "version"]},
    }
    values: list[tuple[str, Any]] = [
        (gone, event | {"id": "0" * 32, "uri": gone, "rkey": "gone"}),
        (kept, event | {"id": "1" * 32, "uri": kept, "rkey": "kept"}),
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
