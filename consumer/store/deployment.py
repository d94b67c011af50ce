"""Which Kafka cluster, topic prefix and partition count these tables belong to.

Offsets in ``lanes`` mean something only against the topics they were read from; the first
process writes them down, every later one is refused when its own differ.
"""

from __future__ import annotations

from dataclasses import dataclass

from consumer.errors import Fatal
from consumer.store.database import Connection

_NOTE = """
INSERT INTO deployment (cluster_id, prefix, partitions) VALUES (%s, %s, %s)
ON CONFLICT (one_row) DO NOTHING
"""
_READ = "SELECT cluster_id, prefix, partitions FROM deployment"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The identity of a deployment."""

    cluster_id: str
    prefix: str
    partitions: int


async def read(connection: Connection) -> Deployment | None:
    """Return what the tables were made for, None while they are unused."""
    row = await (await connection.execute(_READ)).fetchone()
    return Deployment(*row) if row else None


async def check(connection: Connection, mine: Deployment) -> None:
    """Note ``mine`` in fresh tables.  Raises Fatal when they belong to another deployment."""
    await connection.execute(_NOTE, [mine.cluster_id, mine.prefix, mine.partitions])
    theirs = await read(connection)
    if theirs != mine:
        raise Fatal(
            f"the tables belong to another deployment: they say {theirs}, "
            f"this process was started for {mine}"
        )
