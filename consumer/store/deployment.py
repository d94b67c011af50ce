"""The Kafka cluster, topic prefix, partition count and shard that the tables belong to.

Offsets in ``lanes`` are valid only for the topics they were read from, and what is not of the
shard would stay as it is.  The first process writes cluster, prefix, partition count and
shard; a later process with others is refused.

A deployment whose tables contradict what is in Kafka is halted: no process goes on, also after a
restart, until an operator recovers it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from consumer.errors import Fatal
from consumer.shard import WHOLE
from consumer.store.session import Session

_NOTE = """
INSERT INTO deployment (cluster_id, prefix, partitions, shard) VALUES (%s, %s, %s, %s)
ON CONFLICT (one_row) DO NOTHING
"""
_READ = "SELECT cluster_id, prefix, partitions, shard FROM deployment"
_FOUND = "SELECT to_regclass('deployment') IS NOT NULL"
_SHARD = "SELECT coalesce(to_jsonb(deployment) ->> 'shard', '1/1') FROM deployment"
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
    shard: str = str(WHOLE)


async def read(connection: Session) -> Deployment | None:
    """Return what the tables were made for, None while they are unused."""
    row = await (await connection.execute(_READ)).fetchone()
    return Deployment(*row) if row else None


async def shard_of_tables(connection: Session) -> str | None:
    """Return the shard that the tables have, None where nothing has run yet.

    Tables of an earlier version have all accounts.
    """
    row = await (await connection.execute(_FOUND)).fetchone()
    if not (row and row[0]):
        return None
    row = await (await connection.execute(_SHARD)).fetchone()
    return row[0] if row else None


async def halt(connection: Session, reason: str) -> None:
    """Note why the tables must not be used; the first reason stays."""
    await connection.execute(_HALT, [reason])


async def lift_halt(connection: Session) -> None:
    """Let processes use the tables again."""
    await connection.execute(_LIFT)


async def halted_for(connection: Session) -> str | None:
    """Return why the deployment is halted, None if it is not."""
    row = await (await connection.execute(_HALTED)).fetchone()
    return row[0] if row else None


async def require_sound(connection: Session) -> None:
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


def other_shard(shard: str, mine: Deployment) -> Fatal:
    """Return the error that stops a process whose prefix was begun as another ``shard``."""
    return Fatal(
        f"{mine.prefix} was begun as shard {shard}, and scope.shard is {mine.shard}: set it to "
        f"{shard}, or begin each new shard under a kafka.topic_prefix of its own (docs/scaling.md)"
    )


async def check(connection: Session, mine: Deployment) -> None:
    """Write ``mine`` to unused tables.

    Raises ``Fatal`` if they belong to another deployment, or it is halted.
    """
    theirs = await read(connection)
    if theirs is None:  # it is not tried where something stands: a gateway may only read here
        await connection.execute(_NOTE, [mine.cluster_id, mine.prefix, mine.partitions, mine.shard])
        theirs = await read(connection)
    if theirs is not None and replace(theirs, shard=mine.shard) == mine != theirs:
        raise other_shard(theirs.shard, mine)
    if theirs != mine:
        raise Fatal(
            f"the tables belong to another deployment, {theirs}, not to {mine}: correct "
            "kafka.bootstrap_servers, kafka.partitions or postgres.dsn, or take another "
            "kafka.topic_prefix; if Kafka was lost or replaced, see docs/backup.md"
        )
    await require_sound(connection)
