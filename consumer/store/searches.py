"""Searches: which listings were read at which sources, and how far.

``consumer.state.discovery`` decides; this module keeps what it decided.  A process leases a
search while it reads pages, and one search of a source is leased at a time, so that the pace of
a source holds for all processes together.

People see searches as an operation of type ``discovery``: one for each listing that
is opened, or one for all that a command requests.  It runs until all its searches
have ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from psycopg.rows import dict_row

from consumer.state.discovery import REGISTERED, Search, SearchState
from consumer.store.arrays import Texts
from consumer.store.database import Connection
from consumer.store.operations import write
from consumer.store.operations.rows import COLUMNS, of_row
from procedures import transitions
from procedures.operations import Operation

_ONE_BY_ONE = "SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_searches', 0))"
_COLUMNS = """
    source, listing, named_by, state, operation, epoch, cursor, page_limit, seen, pages, found,
    failed, failures, tries, extract(epoch FROM failing_since)::float8 AS failing_since, refusal,
    refusals, extract(epoch FROM refused_since)::float8 AS refused_since, detail,
    extract(epoch FROM due)::float8 AS due
"""
_READ = f"SELECT {_COLUMNS} FROM searches WHERE named_by IS NULL"  # noqa: S608 - our own columns
_READ_ALL = f"SELECT {_COLUMNS} FROM searches ORDER BY listing, source"  # noqa: S608
_REGISTERED = f"SELECT {_COLUMNS} FROM searches WHERE named_by = %s ORDER BY source"  # noqa: S608
# A host whose listing was never read takes no place.
_TAKEN = """
SELECT count(*) FROM searches WHERE named_by = %s AND (state = 'open' OR pages > 0)
"""
_IS_KNOWN = "SELECT EXISTS (SELECT FROM searches WHERE source = %s)"
_FORGET_UNREAD = """
DELETE FROM searches
WHERE named_by = %s AND state NOT IN ('open', 'completed') AND pages = 0
"""
_EPOCH = "SELECT coalesce(max(session), 0) FROM cursors"
_VALUES = """
    (%(source)s, %(listing)s, %(named_by)s, %(state)s, %(operation)s, %(epoch)s, %(cursor)s,
    %(page_limit)s, %(seen)s, %(pages)s, %(found)s, %(failed)s, %(failures)s, %(tries)s,
    to_timestamp(%(failing_since)s), %(refusal)s, %(refusals)s, to_timestamp(%(refused_since)s),
    %(detail)s, to_timestamp(%(due)s))
"""
_NAMES = """
    (source, listing, named_by, state, operation, epoch, cursor, page_limit, seen, pages, found,
    failed, failures, tries, failing_since, refusal, refusals, refused_since, detail, due)
"""
# Opening again takes the search from a process that may still read it.
_PUT = f"""
INSERT INTO searches {_NAMES} VALUES {_VALUES}
ON CONFLICT (source, listing) DO UPDATE SET
    {_NAMES} = {_VALUES}, lease_owner = NULL, lease_until = NULL, updated_at = now()
"""  # noqa: S608
# A command may have made the search its operation's while the page was read.
_SAVE = f"""
UPDATE searches SET {_NAMES} = {_VALUES.replace("%(operation)s", "operation")}, updated_at = now(),
    lease_owner = CASE WHEN %(lease)s::float8 IS NULL THEN NULL ELSE lease_owner END,
    lease_until = now() + make_interval(secs => %(lease)s::float8)
WHERE source = %(source)s AND listing = %(listing)s AND state = 'open' AND lease_owner = %(owner)s
RETURNING operation
"""  # noqa: S608
_EXPIRE = "UPDATE searches SET due = now() WHERE listing = %s AND state <> 'open'"
_BY_STATE = "SELECT state, count(*) FROM searches GROUP BY state"
_ADOPT = "UPDATE searches SET operation = %s WHERE source = %s AND listing = %s"
_LEASE = f"""
UPDATE searches SET lease_owner = %(owner)s, lease_until = now() + make_interval(secs => %(lease)s)
WHERE (source, listing) IN (
    SELECT source, listing FROM searches AS s
    WHERE state = 'open' AND due <= now() AND (lease_until IS NULL OR lease_until <= now())
        AND source <> ALL(%(held)s)
        AND NOT EXISTS (
            SELECT FROM searches AS other
            WHERE other.source = s.source AND other.lease_until > now() AND other.state = 'open'
        )
    ORDER BY due, source, listing LIMIT 1
)
RETURNING {_COLUMNS}
"""  # noqa: S608
_HOSTS = """
INSERT INTO searches AS known (source, listing, named_by, state, operation, epoch, page_limit, seen,
    pages, found, failed, failures, tries, refusals, detail, due)
SELECT host, '*', %(source)s, 'open', %(operation)s, %(epoch)s, %(limit)s, '', 0, 0, 0, 0, 0, 0,
    '', now()
FROM unnest(%(hosts)s) AS new (host)
ON CONFLICT (source, listing) DO UPDATE SET
    named_by = CASE known.named_by WHEN %(registered)s THEN known.named_by
        ELSE EXCLUDED.named_by END,
    state = 'open', operation = EXCLUDED.operation,
    epoch = EXCLUDED.epoch, page_limit = EXCLUDED.page_limit, cursor = NULL, seen = '', pages = 0,
    found = 0, failed = 0, failures = 0, tries = 0, failing_since = NULL, refusal = NULL,
    refusals = 0, refused_since = NULL, detail = '', due = now(), lease_owner = NULL,
    lease_until = NULL, updated_at = now()
WHERE known.state <> 'open'
"""
_FORGET = """
DELETE FROM searches
WHERE named_by IS NULL AND NOT (listing = ANY(%(listings)s) AND source = ANY(%(sources)s))
    OR named_by = %(by_command)s AND NOT %(registered)s
    OR named_by <> %(by_command)s AND NOT %(hosts)s
"""
_CLAIM = """
UPDATE operations SET records_processed = records_processed + %s, version = version + 1
WHERE id = %s AND status = 'running' AND %s > 0
"""
_RUNNING = f"""
SELECT {COLUMNS} FROM operations
WHERE type = 'discovery' AND (status = 'running' OR status = 'queued' AND NOT automatic)
ORDER BY requested_at FOR UPDATE
"""  # noqa: S608
_INSERT = """
INSERT INTO operations (id, type, did, lane, automatic, reason)
VALUES (%s, 'discovery', NULL, %s, true, %s)
"""
_UNWATCHED = f"""
SELECT {_COLUMNS} FROM searches AS s WHERE state = 'open' AND operation IS NOT NULL
    AND NOT EXISTS (
        SELECT FROM operations AS o WHERE o.id = s.operation AND o.status = 'running'
    )
"""  # noqa: S608
_OF_OPERATION = """
SELECT listing, named_by IS NOT NULL, state, detail FROM searches WHERE operation = %s
"""


async def one_by_one(connection: Connection) -> None:
    """Let no other process plan or lease searches until COMMIT."""
    await connection.execute(_ONE_BY_ONE)


async def epoch(connection: Connection) -> int:
    """Return the relay's epoch, 0 before the first."""
    row = await (await connection.execute(_EPOCH)).fetchone()
    return int(row[0]) if row else 0


async def read(connection: Connection) -> dict[tuple[str, str], Search]:
    """Return the searches at the sources of the settings, by source and listing."""
    found = await _rows(connection, _READ)
    return {(each.source, each.listing): each for each in found}


async def read_all(connection: Connection) -> list[Search]:
    """Return all searches, those at hosts as well."""
    return await _rows(connection, _READ_ALL)


async def registered(connection: Connection) -> list[Search]:
    """Return the searches at registered hosts."""
    return await _rows(connection, _REGISTERED, [REGISTERED])


async def places_taken(connection: Connection) -> int:
    """Return how many registered hosts are read, or to be read."""
    row = await (await connection.execute(_TAKEN, [REGISTERED])).fetchone()
    return int(row[0]) if row else 0


async def is_known(connection: Connection, source: str) -> bool:
    """Tell whether anything is, or was, searched at the origin ``source``."""
    row = await (await connection.execute(_IS_KNOWN, [source])).fetchone()
    return row is not None and bool(row[0])


async def forget_unread(connection: Connection) -> None:
    """Forget the registered hosts whose search has ended without a page."""
    await connection.execute(_FORGET_UNREAD, [REGISTERED])


async def put(connection: Connection, search: Search) -> None:
    """Open a search, open it again, or end it, whichever process reads it now."""
    await connection.execute(_PUT, _parameters(search))


async def adopt(connection: Connection, search: Search, operation: str) -> None:
    """Let ``operation`` show a search that is open already."""
    await connection.execute(_ADOPT, [operation, search.source, search.listing])


async def expire(connection: Connection, listing: str) -> None:
    """Let the searches of ``listing`` that have ended be opened again when their turn comes."""
    await connection.execute(_EXPIRE, [listing])


async def by_state(connection: Connection) -> dict[SearchState, int]:
    """Return how many searches there are in each state."""
    rows = await (await connection.execute(_BY_STATE)).fetchall()
    return {SearchState(state): count for state, count in rows}


async def open_hosts(connection: Connection, search: Search, hosts: Sequence[str]) -> None:
    """Open the listing of all repositories at each of ``hosts``, which ``search`` named."""
    parameters = {
        "hosts": Texts(list(dict.fromkeys(hosts))),
        "source": search.source,
        "registered": REGISTERED,
        "operation": search.operation,
        "epoch": search.epoch,
        "limit": 1_000,
    }
    await connection.execute(_HOSTS, parameters)


async def forget(
    connection: Connection,
    listings: Sequence[str],
    sources: Sequence[str],
    *,
    hosts: bool,
    registered: bool,
) -> None:
    """Forget searches of other listings or sources: they begin anew when they come back.

    ``hosts``: listings at hosts that sources name are kept; ``registered``: those at registered
    hosts.
    """
    parameters = {
        "listings": Texts(listings),
        "sources": Texts(sources),
        "hosts": hosts,
        "registered": registered,
        "by_command": REGISTERED,
    }
    await connection.execute(_FORGET, parameters)


async def lease(
    connection: Connection, owner: str, seconds: float, held: Sequence[str]
) -> Search | None:
    """Claim a due search for ``seconds``, at none of the sources ``held``; None: there is none."""
    await one_by_one(connection)
    parameters = {"owner": owner, "lease": seconds, "held": Texts(held)}
    found = await _rows(connection, _LEASE, parameters)
    return found[0] if found else None


async def save(
    connection: Connection, owner: str, search: Search, seconds: float | None, named: int = 0
) -> bool:
    """Store a leased search after a page; extend the lease by ``seconds``, None: give it back.

    ``named``: entries of the page, counted on the operation that shows the search now.  A search
    ends between two plans, never while one is made: its successor is opened before its operation
    can end.  Returns False when the lease was lost; then nothing is stored.
    """
    if search.ended:
        await one_by_one(connection)
    parameters = _parameters(search) | {"owner": owner, "lease": seconds}
    row = await (await connection.execute(_SAVE, parameters)).fetchone()
    if row is None:
        return False
    await connection.execute(_CLAIM, [named, row[0], named])
    return True


async def operations(connection: Connection) -> list[Operation]:
    """Return the discoveries that run or were asked for, oldest first, locked until COMMIT."""
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(_RUNNING)
        return [of_row(row) for row in await cursor.fetchall()]


async def begin(connection: Connection, lane: int, listing: str) -> str:
    """Begin an operation for the search of ``listing``; return its id.  ``lane`` publishes it."""
    identifier = str(uuid4())
    await connection.execute(_INSERT, [identifier, lane, listing])
    for operation in await write.lock(connection, [identifier]):
        await write.save(connection, [transitions.start(operation, operation.run_after)])
    return identifier


async def unwatched(connection: Connection) -> list[Search]:
    """Return the open searches whose operation no longer runs: it was cancelled."""
    return await _rows(connection, _UNWATCHED)


async def of_operation(
    connection: Connection, identifier: str
) -> list[tuple[str, bool, SearchState, str]]:
    """Return listing, whether it is a host's, state and detail of an operation's searches."""
    rows = await (await connection.execute(_OF_OPERATION, [identifier])).fetchall()
    return [(listing, host, SearchState(state), detail) for listing, host, state, detail in rows]


async def save_operations(connection: Connection, changed: Sequence[Operation]) -> None:
    """Store locked operations."""
    await write.save(connection, changed)


async def _rows(
    connection: Connection, sql: str, parameters: dict[str, object] | list[object] | None = None
) -> list[Search]:
    async with connection.cursor(binary=True, row_factory=dict_row) as cursor:
        await cursor.execute(sql, parameters or {})
        return [_of_row(row) for row in await cursor.fetchall()]


def _of_row(row: dict[str, Any]) -> Search:
    limit = row.pop("page_limit")
    return Search(**row | {"state": SearchState(row["state"])}, limit=limit)


def _parameters(search: Search) -> dict[str, object]:
    return {
        "source": search.source,
        "listing": search.listing,
        "named_by": search.named_by,
        "state": search.state.value,
        "operation": search.operation,
        "epoch": search.epoch,
        "cursor": search.cursor,
        "page_limit": search.limit,
        "seen": search.seen,
        "pages": search.pages,
        "found": search.found,
        "failed": search.failed,
        "failures": search.failures,
        "tries": search.tries,
        "failing_since": search.failing_since,
        "refusal": search.refusal,
        "refusals": search.refusals,
        "refused_since": search.refused_since,
        "detail": search.detail,
        "due": search.due,
    }
