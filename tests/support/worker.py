"""A worker's surroundings: its topics, its tables, a tailer and a fetcher played by the test."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from consumer.backfill import AccountAnswer, IdentityAnswer, Message, encode
from consumer.config.settings import Settings
from consumer.kafka.client import Client
from consumer.kafka.reader import Record, TopicPartition
from consumer.kafka.schema_registry import Header
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from consumer.store import lookups, outbox
from consumer.store.database import Database
from consumer.verify.frames import peek
from consumer.worker.lane import Resources, run_lane
from consumer.worker.role import Worker
from procedures.syntax import cid_text
from tests.support import event_headers
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running

RELAY = "wss://relay.test"
PDS = "https://pds.test"

Table = dict[str, dict[str, str]]


@dataclass
class WorkerHarness(Harness):
    """One deployment with the test in the place of tailer and fetcher.

    ``keys`` are the signing keys that the fetcher finds, by DID; an unknown DID has none.
    ``schemas``: the header that names the schema of a topic's values.
    """

    relay: TransactionalProducer
    fetcher: TransactionalProducer
    keys: dict[str, str] = field(default_factory=dict)
    schemas: Mapping[Topic, Header] = field(default_factory=dict)
    epoch: int = 1
    last: dict[int, int] = field(default_factory=dict)
    ends: Counter[TopicPartition] = field(default_factory=Counter)

    # -- the tailer's part -------------------------------------------------------------

    async def publish(self, frames: Iterable[bytes]) -> int:
        """Forward frames as the tailer does, and return how many."""
        records = [self._record(frame) for frame in frames]
        for start in range(0, len(records), 1_000):
            await self.send(records[start : start + 1_000])
        return len(records)

    async def send(self, records: Sequence[OutRecord]) -> None:
        """Put records on the firehose topic, in one transaction."""
        await self.relay.commit(records)
        self._count(records)

    def _count(self, records: Sequence[OutRecord]) -> None:
        places = Counter(TopicPartition(record.topic, record.partition) for record in records)
        for place, count in places.items():
            self.ends[place] += count + 1  # and the transaction's marker

    def new_epoch(self) -> None:
        """Break the continuity."""
        self.epoch += 1
        self.last.clear()

    def _record(self, frame: bytes) -> OutRecord:
        look = peek(frame)
        assert look.did is not None
        assert look.seq is not None
        return self.record(frame, look.did, look.seq)

    def record(self, frame: bytes, did: str, seq: int) -> OutRecord:
        """Return the record that carries ``frame``, and count it."""
        partition = self.topics.partition_of(did)
        headers = (
            ("seq", b"%d" % seq),
            ("relay", RELAY.encode()),
            ("session", b"%d" % self.epoch),
            ("prev_seq", b"%d" % self.last.get(partition, 0)),
        )
        self.last[partition] = seq
        topic = self.topics.name(Topic.FIREHOSE)
        return OutRecord(topic, partition, did.encode(), frame, headers)

    # -- the fetcher's part ------------------------------------------------------------

    async def tell(self, *messages: Message) -> None:
        """Put messages on the backfill topic."""
        topic, partition_of = self.topics.name(Topic.BACKFILL), self.topics.partition_of
        records = [
            OutRecord(topic, partition_of(m.did), m.did.encode(), encode(m)) for m in messages
        ]
        await self.fetcher.commit(records)
        self._count(records)

    def identity(self, did: str, **fields: Any) -> IdentityAnswer:
        """Return what the fetcher would find now."""
        key = self.keys.get(did)
        known = {"signing_key": key, "pds": PDS} if key else {"error": "no such DID"}
        return IdentityAnswer(**{"did": did, "fetched_at": time.time(), **known, **fields})

    async def answer_once(self) -> int:
        """Answer every lookup that is due; return how many."""
        async with self.database.transaction() as connection:
            asked = await lookups.lease(connection, 1_000, 60.0)
        answers = [
            self.identity(q.did)
            if q.kind == "identity"
            else AccountAnswer(
                q.did,
                q.epoch,
                q.seq,
                "deleted",
                host=PDS.removeprefix("https://"),
                asked_at=time.time(),
                cause=q.cause,
            )
            for q in asked
        ]
        if answers:
            await self.tell(*answers)
        async with self.database.transaction() as connection:
            for lookup in asked:
                await lookups.close(connection, lookup)
        return len(asked)

    @asynccontextmanager
    async def fetching(self) -> AsyncIterator[None]:
        """Answer all questions during the block."""

        async def answer() -> None:
            while True:
                await self.answer_once()
                await asyncio.sleep(0.05)

        task = asyncio.create_task(answer())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    # -- the worker --------------------------------------------------------------------

    def resources(
        self,
        settings: Settings | None = None,
        client: Client | None = None,
        database: Database | None = None,
    ) -> Resources:
        """Return what a worker of this deployment is made of."""
        settings = settings or self.settings
        scope = settings.scope
        servers = client or self.client, self.topics, database or self.database
        return Resources(
            settings,
            *servers,
            Publisher(*servers, schemas=self.schemas),
            Scope(scope.collections, scope.repos, scope.history, frozenset(scope.dids)),
        )

    @asynccontextmanager
    async def working(self, settings: Settings | None = None) -> AsyncIterator[None]:
        """Run a worker during the block, and stop it in good order."""
        async with running(Worker(self.resources(settings)).run):
            yield

    @asynccontextmanager
    async def owning(self, did: str, settings: Settings | None = None) -> AsyncIterator[None]:
        """Run the lane of ``did`` alone during the block, without a group."""
        lane = partial(run_lane, self.topics.partition_of(did), self.resources(settings))
        async with running(lane):
            yield

    async def settled(self, deadline: float = 90.0) -> None:
        """Wait until every record is consumed, nothing is parked, and the outbox is empty."""
        await eventually(self._is_settled, what="the worker has settled", deadline=deadline)

    async def consumed(self, deadline: float = 90.0) -> None:
        """Wait until every record is consumed."""
        await eventually(self.is_consumed, what="everything is consumed", deadline=deadline)

    async def _is_settled(self) -> bool:
        if not await self.is_consumed():
            return False
        async with self.database.transaction() as connection:
            row = await (await connection.execute("SELECT count(*) FROM parked")).fetchone()
            return row == (0,) and not await outbox.depth(connection)

    async def is_consumed(self) -> bool:
        """Tell whether the lanes' positions are the ends of the topics."""
        rows = await self.rows("SELECT lane, firehose_offset, backfill_offset FROM lanes")
        done = {
            TopicPartition(self.topics.name(topic), lane): offset
            for lane, *offsets in rows
            for topic, offset in zip((Topic.FIREHOSE, Topic.BACKFILL), offsets, strict=True)
        }
        return all(done.get(place, 0) >= end - 1 for place, end in self.ends.items())

    # -- what came of it ---------------------------------------------------------------

    async def events(self) -> list[dict[str, Any]]:
        """Return the events of accounts, without tombstones; headers are those of the values."""
        return [event for event in await self._told() if "did" in event]

    async def said(self) -> list[dict[str, Any]]:
        """Return what the lanes say of themselves, that of each in order."""
        return [event for event in await self._told() if "did" not in event]

    async def _told(self) -> list[dict[str, Any]]:
        records = await self.told()
        event_headers.validate(records)
        return [json.loads(record.value) for record in records if record.value is not None]

    async def dead_letters(self) -> list[tuple[str, Record]]:
        """Return the dead letters with their reasons; each follows the published format."""
        records = await self.committed(Topic.DEAD_LETTER)
        for record in records:
            validate(record)
        return [(dict(record.headers)["reason"].decode(), record) for record in records]

    async def folded(self) -> Table:
        """Return the table that the events topic adds up to: CIDs by DID and path."""
        table: Table = {}
        for event in await self.events():
            if event["type"] != "record":
                continue
            repo = table.setdefault(event["did"], {})
            path = f"{event['collection']}/{event['rkey']}"
            if event["action"] == "delete":
                repo.pop(path, None)
            else:
                repo[path] = event["cid"]
        return {did: repo for did, repo in table.items() if repo}

    async def stored(self) -> Table:
        """Return the table of records in Postgres."""
        table: Table = {}
        for did, path, cid in await self.rows(
            "SELECT did, path, cid FROM records WHERE cid IS NOT NULL"
        ):
            table.setdefault(did, {})[path] = cid_text(cid)
        return table

    async def repos(self) -> Mapping[str, tuple[str, str, str | None]]:
        """Return status, sync state and reason by DID."""
        rows = await self.rows("SELECT did, status, sync_state, reason FROM repos")
        return {did: (status, state, reason) for did, status, state, reason in rows}


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[WorkerHarness]:
    """Prepare topics and tables; no worker runs yet."""
    client = Client(deployment.kafka())
    async with (
        await TransactionalProducer.open(client, "test-relay") as relay,
        await TransactionalProducer.open(client, "test-fetcher") as fetcher,
        WorkerHarness.opened(deployment, client, relay=relay, fetcher=fetcher) as harness,
    ):
        yield harness
