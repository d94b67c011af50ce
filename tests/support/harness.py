"""The harness of the tests on the services: a deployment with its topics and tables in place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

from consumer.config.settings import Settings
from consumer.kafka.client import Client
from consumer.kafka.provision import ensure
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.store.database import Database
from tests.support import schemas
from tests.support.deployment import Deployment
from tests.support.kafka import client_of, committed, topics_of

Root = Callable[[asyncio.Event], Awaitable[None]]

_STOP_DEADLINE = 30.0  # seconds


@dataclass
class Harness:
    """What every test of a role needs: clients of its deployment, and a look at what came of it.

    Files that test one role add what is that role's in a subclass, and give it with a fixture
    ``harness`` of their own.
    """

    deployment: Deployment
    client: Client
    topics: Topics
    database: Database

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, deployment: Deployment, client: Client | None = None, **fields: Any
    ) -> AsyncIterator[Self]:
        """Prepare topics and tables during the block; ``fields`` are those of the subclass."""
        client, topics = client or client_of(deployment), topics_of(deployment)
        database = Database(deployment.postgres(), deployment.prefix)
        await asyncio.gather(database.open(), ensure(client, topics))
        try:
            yield cls(deployment, client, topics, database, **fields)
        finally:
            await database.close()

    @property
    def settings(self) -> Settings:
        return self.deployment.settings()

    async def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        async with self.database.transaction() as connection:
            return await (await connection.execute(sql, list(parameters))).fetchall()

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Commit one statement."""
        async with self.database.transaction() as connection:
            await connection.execute(sql, list(parameters))

    async def write(self, topic: Topic, *values: bytes | None) -> None:
        """Produce bare messages to partition 0, without keys, headers or a transaction."""
        async with await Writer.open(self.client) as writer:
            for value in values:
                await writer.write(OutRecord(self.topics.name(topic), 0, None, value))

    def route(self, routes: Mapping[str, str]) -> None:
        """Give the events other routes, from the next start on; make their topics first."""
        self.deployment = replace(self.deployment, routes=routes)
        self.client, self.topics = client_of(self.deployment), topics_of(self.deployment)

    async def told(self) -> list[Record]:
        """Return the records of all topics of events, once each, those of a lane in order."""
        found = {
            out_seq(record): record
            for name in self.topics.event_topics
            for record in await committed(self.client, name, range(self.topics.partitions))
        }
        return [found[place] for place in sorted(found)]

    async def committed(self, topic: Topic, *partitions: int) -> list[Record]:
        """Return what a ``read_committed`` reader sees, each partition in order; default: all.

        What we wrote there must be as the published schemas say.
        """
        name = self.topics.name(topic)
        (count,) = [spec.partitions for spec in self.topics.specs() if spec.name == name]
        found = await committed(self.client, name, partitions or range(count))
        schemas.validate(topic, found)
        return found


def out_seq(record: Record) -> tuple[int, int]:
    """Return the lane of a record, and its number in it."""
    headers = dict(record.headers)
    return int(headers["lane"]), int(headers["out_seq"])


@asynccontextmanager
async def running(*roots: Root, may_end: bool = False) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Run roots during the block, and stop them in good order.

    A root that ends before it is told to ends the test at once, unless it ``may_end``.
    """
    stop = asyncio.Event()
    tasks = [asyncio.ensure_future(root(stop)) for root in roots]
    test = asyncio.current_task()
    assert test is not None

    def ended(_: asyncio.Task[None]) -> None:
        if not (may_end or stop.is_set()):
            test.cancel()

    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield tasks
        stop.set()
        await asyncio.wait_for(asyncio.gather(*tasks), _STOP_DEADLINE)
    except asyncio.CancelledError:
        for task in tasks:
            if task.done() and not task.cancelled():
                task.result()  # why it ended
        raise
    finally:
        stop.set()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
