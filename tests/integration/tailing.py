"""A tailer between a scripted relay and a real Kafka."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from consumer import metrics
from consumer.config.settings import RelaySettings
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord, TransactionalProducer
from consumer.scope import Scope
from consumer.tail import tailer as module
from consumer.tail.cursor import Cursor
from consumer.tail.mirror import RelayState
from consumer.tail.tailer import Store, Tailer
from tests.support.eventually import eventually
from tests.support.firehose import Forwarded, forwarded
from tests.support.harness import Harness
from tests.support.relay import ScriptedRelay

LIMIT = 200_000
SILENCE = 1.0


@dataclass
class TailerHarness(Harness):
    """A deployment without workers: what they would know is given by hand."""

    relay: ScriptedRelay
    tracked: set[str] = field(default_factory=set)
    joined: set[str] = field(default_factory=set)
    consumed: dict[int, int] = field(default_factory=dict)
    mirrored: list[Cursor] = field(default_factory=list)
    states: list[RelayState] = field(default_factory=list)
    store_away: bool = False
    others: list[ScriptedRelay] = field(default_factory=list)

    @property
    def relays(self) -> list[str]:
        """The URLs of all relays, in order of preference."""
        return [relay.url for relay in (self.relay, *self.others)]

    def tailer(self, client: Client | None = None, **relay: Any) -> Tailer:
        """Return a tailer that reconnects without a pause."""
        settings = RelaySettings(**{"url": self.relay.url, "silence": SILENCE, **relay})
        scope = Scope(("pub.chive.*",))
        store = Store(self._tracked, self._joined, self._consumed, self._mirror, self._report)
        tailer = Tailer(
            settings, scope, client or self.client, self.topics, store, frame_limit=LIMIT
        )
        tailer._chance = NoPause()
        return tailer

    async def _tracked(self) -> AsyncIterator[list[str]]:
        if self.store_away:
            raise Transient("Postgres is away")
        for did in self.tracked:
            yield [did]

    async def _joined(self, seconds: float) -> set[str]:
        assert seconds > 0
        return set(self.joined)

    async def _consumed(self) -> Mapping[int, int]:
        if self.store_away:
            raise Transient("Postgres is away")
        return self.consumed

    async def _mirror(self, relay: str, cursor: Cursor) -> None:
        assert relay in self.relays
        if self.store_away:
            raise Transient("Postgres is away")
        self.mirrored.append(cursor)

    async def _report(self, relay: str, state: RelayState) -> None:
        assert relay in self.relays
        self.states.append(state)

    async def forwarded(self) -> list[Forwarded]:
        """Return what a ``read_committed`` reader finds in the firehose topic."""
        return await forwarded(self.client, self.topics)

    async def cursors(self) -> dict[str, Cursor]:
        """Return the newest cursors that are committed."""
        found = {}
        for record in await self.committed(Topic.CURSOR):
            if record.key and record.value and record.key.startswith(b"ws"):
                found[record.key.decode()] = Cursor.decode(record.value)
        return found

    async def reached(self, seq: int, deadline: float = 60.0) -> Cursor:
        """Wait until the durable cursor of the relay is at ``seq``."""

        async def look() -> Cursor | None:
            cursor = (await self.cursors()).get(self.relay.url)
            return cursor if cursor is not None and cursor.seq == seq else None

        found = await eventually(look, what=f"cursor at {seq}", deadline=deadline, every=0.2)
        assert found is not None
        return found

    async def store_cursor(self, relay: str, cursor: Cursor) -> None:
        """Make ``cursor`` the durable one, as an earlier tailer would have."""
        async with await TransactionalProducer.open(self.client, module.ROLE) as producer:
            topic = self.topics.name(Topic.CURSOR)
            await producer.commit([OutRecord(topic, 0, relay.encode(), cursor.encode())])


class NoPause(random.Random):
    """Chance that always says: at once."""

    def uniform(self, a: float, b: float) -> float:
        return min(a, b, 0.0)


async def attempts_in_vain(count: int) -> None:
    before = metrics.by_label(metrics.WAITS)["kafka"]
    await eventually(
        lambda: metrics.by_label(metrics.WAITS)["kafka"] >= before + count,
        what=f"{count} attempts in vain",
    )
