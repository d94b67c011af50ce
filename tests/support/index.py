"""An index as consumers of the events keep one, by the rules that the README gives to them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

_PAGE = 50
_CRASHES, _STORES = 0.05, 0.5  # of the pages: after which it dies, or stores what it has


@dataclass
class State:
    """What is stored in one transaction: the index, and the offsets that it has come to."""

    records: dict[str, str] = field(default_factory=dict)  # CID by AT-URI
    revs: dict[str, str] = field(default_factory=dict)  # also of deleted records
    statuses: dict[str, str] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)
    offsets: dict[int, int] = field(default_factory=dict)

    def apply(self, value: bytes | None) -> None:
        """Take one value of the topic in."""
        if value is None:
            return  # a tombstone: the delete came before it
        event = orjson.loads(value)
        if "did" not in event:
            return  # a lane speaks of itself
        if event["id"] in self.ids:
            return
        self.ids.add(event["id"])
        did = event["did"]
        match event["type"]:
            case "record":
                self._record(event["uri"], event["rev"], event["cid"])
            case "account":
                self.statuses[did] = event["status"]
            case "sync" if event["state"] == "active":
                self.incomplete.discard(did)
            case "sync":
                self.incomplete.add(did)

    def _record(self, uri: str, rev: str, cid: str | None) -> None:
        if rev < self.revs.get(uri, ""):
            return
        self.revs[uri] = rev
        if cid is None:
            self.records.pop(uri, None)
        else:
            self.records[uri] = cid


class Index:
    """It reads by itself, and dies now and then: what it had not stored it reads again."""

    def __init__(self, bootstrap_servers: str, topic: str, partitions: int) -> None:
        self._servers = bootstrap_servers
        self._places = [TopicPartition(topic, number) for number in range(partitions)]
        self._stored = State()
        self._doubted: set[str] = set()
        self._chance = random.Random(12)
        self.crashes = 0

    @property
    def statuses(self) -> dict[str, str]:
        """The newest status of each account that an event told of."""
        return self._stored.statuses

    def records(self, did: str) -> dict[str, str]:
        """Return the records of an account: CIDs by path."""
        start = f"at://{did}/"
        return {
            uri.removeprefix(start): cid
            for uri, cid in self._stored.records.items()
            if uri.startswith(start)
        }

    def is_complete(self, did: str) -> bool:
        """Tell whether no event says that the account's records may not be all."""
        return did not in self._stored.incomplete | self._doubted

    def doubt(self, dids: Iterable[str]) -> None:
        """Take repositories as incomplete until an event says otherwise, as after a recovery."""
        self._doubted |= set(dids)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Read during the block."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _read(self) -> None:
        while True:
            try:
                await self._read_until_it_dies()
            except KafkaError:
                await asyncio.sleep(0.5)

    async def _read_until_it_dies(self) -> None:
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="none",
        )
        try:
            await consumer.start()
            consumer.assign(self._places)
            starts = await consumer.beginning_offsets(self._places)
            for place, start in starts.items():
                consumer.seek(place, self._stored.offsets.get(place.partition, start))
            state = deepcopy(self._stored)
            while True:
                found = await consumer.getmany(timeout_ms=200, max_records=_PAGE)
                for place, records in found.items():
                    for record in records:
                        state.apply(record.value)
                    state.offsets[place.partition] = records[-1].offset + 1
                if found and self._chance.random() < _CRASHES:
                    self.crashes += 1
                    return
                if not found or self._chance.random() < _STORES:
                    state.incomplete |= self._doubted
                    self._doubted = set()
                    self._stored = deepcopy(state)
        finally:
            await consumer.stop()
