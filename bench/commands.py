"""Commands on the control topic, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from uuid import uuid4

import orjson

from bench.deployment import Deployment, until
from consumer.embedded.process import Server
from consumer.errors import Fatal
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer


@dataclass(frozen=True, slots=True)
class Commands:
    """``count`` commands that were sent together: the ids of their operations share a beginning."""

    deployment: Deployment
    prefix: str
    count: int

    async def applied(self, servers: Iterable[Server], deadline: float) -> None:
        """Wait until they have ended and their events are in Kafka; raises like ``until``."""
        servers = list(servers)
        await until("operations", self._ended, servers, deadline)
        lanes = await self.deployment.lanes()
        await until("events", lambda: self.deployment.has_caught_up(lanes), servers, deadline)

    async def check(self, created: int) -> None:
        """Raise unless all have completed and made ``created`` new records."""
        rows = await self.deployment.rows(
            "SELECT status, sum(created)::int FROM operations WHERE id LIKE %s GROUP BY status",
            f"{self.prefix}%",
        )
        if rows != [("completed", created)]:
            raise Fatal(f"all syncs should have completed, with {created} new records: {rows}")

    async def _ended(self) -> bool:
        # Looks ten times a second, and PostgreSQL is measured: no list of 2,000 ids.
        ((ended,),) = await self.deployment.rows(
            "SELECT count(completed_at) FROM operations WHERE id LIKE %s", f"{self.prefix}%"
        )
        return ended == self.count


async def command(deployment: Deployment, commands: Sequence[Mapping[str, str]]) -> Commands:
    """Produce commands all at once."""
    sent = Commands(deployment, f"bench-{uuid4()}-", len(commands))
    name = deployment.services.topics.name(Topic.CONTROL)
    async with await Writer.open(deployment.services.client) as writer:
        await asyncio.gather(
            *(
                writer.write(
                    OutRecord(name, 0, None, orjson.dumps({"id": f"{sent.prefix}{n}", **each}))
                )
                for n, each in enumerate(commands)
            )
        )
    return sent
