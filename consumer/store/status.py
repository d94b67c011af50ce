"""The state of the deployment for operators, read in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from consumer.shard import WHOLE
from consumer.state.discovery import Search
from consumer.store import answers, deployment, lanes, outbox, routes, searches, sweep
from consumer.store import found as found_repos
from consumer.store.answers import HeldHost
from consumer.store.database import Connection
from consumer.store.rows import Lane
from consumer.store.sampling import Sample, sample_of
from consumer.store.sweep import Progress

_REPORT_SECONDS = 60.0  # the tailer reports at least twice in that time


@dataclass(frozen=True, slots=True)
class Cursor:
    """The mirror of a relay's cursor; the column of ``epoch`` is ``session``."""

    relay: str
    seq: int
    time: datetime | None
    epoch: int
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class RelayConnection:
    """What the tailer last said of its connection to a relay.

    ``reason``: why it is not connected.  The tailer updates it at least twice a minute.
    """

    relay: str
    connected: bool
    since: datetime
    reason: str
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Status:
    """Counts and positions; ``repos`` by (status, sync state, reason), ``outbox`` by lane.

    ``found``: repositories that are remembered, being synced, and failed before.
    ``routes_changed``: since then the topics of events do not hold what the routes say.
    ``estimated`` names those of repos, records and operations whose numbers are of a sample.
    """

    cursors: list[Cursor]
    lanes: list[Lane]
    repos: dict[tuple[str, str, str | None], int]
    records: int
    parked: int
    lookups: int
    operations: dict[str, int]
    outbox: dict[int, int]
    relays: list[RelayConnection] = field(default_factory=list)
    held: list[HeldHost] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    found: tuple[int, int, int] = (0, 0, 0)
    sweep: Progress | None = None
    routes_changed: datetime | None = None
    estimated: frozenset[str] = frozenset()
    shard: str = str(WHOLE)


_RELAYS = """
SELECT relay, connected, since, reason, updated_at FROM relay_connections
ORDER BY updated_at DESC
"""
_CURSORS = "SELECT relay, seq, time, session, updated_at FROM cursors ORDER BY updated_at DESC"
_REPOS = "SELECT status, sync_state, reason, count(*) FROM repos {sample} GROUP BY 1, 2, 3"
_RECORDS = "SELECT count(*) FROM records {sample} WHERE cid IS NOT NULL"
_OPERATIONS = "SELECT status, count(*) FROM operations {sample} GROUP BY status"
_SAMPLED = {"repos": _REPOS, "records": _RECORDS, "operations": _OPERATIONS}
_PARKED = "SELECT count(*) FROM parked"
_LOOKUPS = "SELECT count(*) FROM lookups"

_MIRROR = """
INSERT INTO cursors (relay, seq, time, session) VALUES (%s, %s, %s, %s)
ON CONFLICT (relay) DO UPDATE SET
    seq = EXCLUDED.seq, time = EXCLUDED.time, session = EXCLUDED.session, updated_at = now()
"""

_CONNECTION = """
INSERT INTO relay_connections (relay, connected, since, reason) VALUES (%s, %s, %s, %s)
ON CONFLICT (relay) DO UPDATE SET
    connected = EXCLUDED.connected, since = EXCLUDED.since, reason = EXCLUDED.reason,
    updated_at = now()
"""


async def read(connection: Connection) -> Status:
    """Return the state of the deployment."""
    cursors, relays = await firehose(connection)
    samples = {table: await sample_of(connection, table) for table in _SAMPLED}
    counted = {
        table: await _counted(connection, query, samples[table])
        for table, query in _SAMPLED.items()
    }
    known = await deployment.read(connection)
    return Status(
        cursors=cursors,
        lanes=await lanes.read_all(connection),
        repos={(status, state, reason): n for status, state, reason, n in counted["repos"]},
        records=sum(n for (n,) in counted["records"]),
        parked=await _count(connection, _PARKED),
        lookups=await _count(connection, _LOOKUPS),
        operations=dict(counted["operations"]),
        outbox=await outbox.depth(connection),
        relays=relays,
        held=await answers.held_hosts(connection),
        searches=await searches.read_all(connection),
        found=await found_repos.counts(connection),
        sweep=await sweep.progress(connection),
        routes_changed=await routes.changed_at(connection),
        estimated=frozenset(table for table, sample in samples.items() if sample.partial),
        shard=str(WHOLE) if known is None else known.shard,
    )


async def _counted(connection: Connection, query: str, sample: Sample) -> list[tuple[Any, ...]]:
    """Return the rows of a query that counts, as they are about of the whole table."""
    rows = await (await connection.execute(query.format(sample=sample.clause))).fetchall()
    return [(*kind, sample.all_of(count)) for *kind, count in rows]


async def firehose(connection: Connection) -> tuple[list[Cursor], list[RelayConnection]]:
    """Return the cursors and the connections of all relays, each the newest first."""
    cursors = await (await connection.execute(_CURSORS)).fetchall()
    relays = await (await connection.execute(_RELAYS)).fetchall()
    return [Cursor(*row) for row in cursors], [RelayConnection(*row) for row in relays]


def last_reported(relays: Sequence[RelayConnection], now: float) -> RelayConnection | None:
    """Return the connection that was reported last; None: none ever was.

    It is not connected where no tailer has reported for long; ``now`` is in Unix seconds.
    """
    if not relays:
        return None
    newest = max(relays, key=lambda each: each.updated_at)
    silent = now - newest.updated_at.timestamp()
    if silent <= _REPORT_SECONDS:
        return newest
    reason = f"no tailer has reported for {silent:,.0f} s; is the role tailer running?"
    return replace(newest, connected=False, since=newest.updated_at, reason=reason)


async def mirror_cursor(
    connection: Connection, relay: str, seq: int, time: datetime | None, epoch: int
) -> None:
    """Write a relay's cursor for operators; the tailer itself resumes from ``chive.cursor``."""
    await connection.execute(_MIRROR, [relay, seq, time, epoch])


async def note_connection(
    connection: Connection, relay: str, since: datetime, *, connected: bool, reason: str
) -> None:
    """Write whether the tailer is connected to a relay, since when, and why not."""
    await connection.execute(_CONNECTION, [relay, connected, since, reason])


async def _count(connection: Connection, query: str) -> int:
    row = await (await connection.execute(query)).fetchone()
    return int(row[0]) if row else 0
