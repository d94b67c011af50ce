"""The Kafka cluster, topic prefix and partition count that the tables belong to.

Offsets in ``lanes`` are valid only for the topics they were read from.  The first process writes
cluster, prefix and partition count; a later process with others is refused.

A deployment whose tables contradict what is in Kafka is halted: no process goes on, also after a
restart, until an operator recovers it.
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
_HALT = """
UPDATE deployment SET halted = %s, halted_at = now() WHERE halted IS NULL
"""
_LIFT = "UPDATE deployment SET halted = NULL, halted_at = NULL"
_HALTED = "SELECT halted FROM deployment WHERE halted IS NOT NULL"


@dataclass(frozen=True, slots=True)
class Deployment:
    """The identity of a deployment; ``cluster_id`` is Kafka's own."""

    cluster_id: str
    prefix: str
    partitions: int


async def read(connection: Connection) -> Deployment | None:
    """Return what the tables were made for, None while they are unused."""
    row = await (await connection.execute(_READ)).fetchone()
    return Deployment(*row) if row else None


async def halt(connection: Connection, reason: str) -> None:
    """Note why the tables must not be used; the first reason stays."""
    await connection.execute(_HALT, [reason])


async def lift_halt(connection: Connection) -> None:
    """Let processes use the tables again."""
    await connection.execute(_LIFT)


async def halted_for(connection: Connection) -> str | None:
    """Return why the deployment is halted, None if it is not."""
    row = await (await connection.execute(_HALTED)).fetchone()
    return row[0] if row else None


async def require_sound(connection: Connection) -> None:
    """Raise ``Fatal`` if the deployment is halted."""
    reason = await halted_for(connection)
    if reason is not None:
        raise halted(reason)


def halted(reason: str) -> Fatal:
    """Return the error that stops a process of a deployment that is halted for ``reason``."""
    return Fatal(
        f"the tables and Kafka do not belong together: {reason}; stop all processes and run "
        "'consumer recover' (docs/backup.md)"
    )


async def check(connection: Connection, mine: Deployment) -> None:
    """Write ``mine`` to unused tables.

    Raises ``Fatal`` if they belong to another deployment, or it is halted.
    """
    theirs = await read(connection)
    if theirs is None:  # it is not tried where something stands: a gateway may only read here
        await connection.execute(_NOTE, [mine.cluster_id, mine.prefix, mine.partitions])
        theirs = await read(connection)
    if theirs != mine:
        raise Fatal(
            f"the tables belong to another deployment, {theirs}, not to {mine}: correct "
            "kafka.bootstrap_servers, kafka.partitions or postgres.dsn, or take another "
            "kafka.topic_prefix; if Kafka was lost or replaced, see docs/backup.md"
        )
    await require_sound(connection)
