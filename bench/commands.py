"""Commands on the control topic, and what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from uuid import uuid4

import orjson

from bench.deployment import Deployment, until
from consumer.embedded.process import Server
from consumer.errors import Fatal
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer


async def command(deployment: Deployment, commands: Sequence[Mapping[str, str]]) -> list[str]:
    """Produce commands all at once, and return the ids of their operations."""
    identifiers = [f"bench-{uuid4()}" for _ in commands]
    name = deployment.services.topics.name(Topic.CONTROL)
    async with await Writer.open(deployment.services.client) as writer:
        await asyncio.gather(
            *(
                writer.write(OutRecord(name, 0, None, orjson.dumps({"id": each, **command})))
                for each, command in zip(identifiers, commands, strict=True)
            )
        )
    return identifiers


async def applied(
    deployment: Deployment,
    identifiers: Sequence[str],
    servers: Iterable[Server],
    deadline: float,
) -> None:
    """Wait until operations have ended and their events are in Kafka; raises like ``until``."""
    servers = list(servers)

    async def ended() -> bool:
        ((count,),) = await deployment.rows(
            "SELECT count(completed_at) FROM operations WHERE id = ANY(%s)", list(identifiers)
        )
        return count == len(identifiers)

    await until("operations", ended, servers, deadline)
    lanes = await deployment.lanes()
    await until("events", lambda: deployment.has_caught_up(lanes), servers)


async def check_completed(deployment: Deployment, identifiers: Sequence[str], created: int) -> None:
    """Raise unless all operations have completed and made ``created`` new records."""
    rows = await deployment.rows(
        "SELECT status, sum(created)::int FROM operations WHERE id = ANY(%s) GROUP BY status",
        list(identifiers),
    )
    if rows != [("completed", created)]:
        raise Fatal(f"all syncs should have completed, with {created} new records: {rows}")
