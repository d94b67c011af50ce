"""Records: the content of every path of every repository.

A row is ``(did, path, cid, rev)``; ``cid`` None is a tombstone: the path is known to be absent at
``rev``.  Paths compare bytewise, as in the repository's tree.
"""

from __future__ import annotations

from collections.abc import Sequence

from consumer.scope import Interval
from consumer.store.arrays import Byteas, Texts
from consumer.store.database import Connection
from consumer.store.rows import Record

_READ = """
SELECT r.did, r.path, r.cid, r.rev
FROM unnest(%s, %s) AS wanted (did, path)
JOIN records AS r ON r.did = wanted.did AND r.path = wanted.path
"""
# OFFSET 0 makes the planner read one range of the primary key per interval.
_READ_INTERVALS = """
SELECT wanted.did, r.path, r.cid, r.rev
FROM unnest(%s, %s, %s) AS wanted (did, lower, upper)
CROSS JOIN LATERAL (
    SELECT path, cid, rev FROM records
    WHERE did = wanted.did
        AND path >= wanted.lower COLLATE "C" AND path < wanted.upper COLLATE "C"
    OFFSET 0
) AS r
"""
_BOUNDARIES = """
SELECT path FROM (
    SELECT path, row_number() OVER (ORDER BY path) AS number FROM records WHERE did = %s
) AS numbered
WHERE number %% %s = 0 ORDER BY path
"""
_READ_FIRST = "SELECT did, path, cid, rev FROM records WHERE did = %s ORDER BY path LIMIT %s"
_ABOVE_ALL = "\U0010ffff"  # no path contains it
_READ_REPOS = "SELECT did, path, cid, rev FROM records WHERE did = ANY(%s)"
_WRITE = """
INSERT INTO records (did, path, cid, rev) SELECT * FROM unnest(%s, %s, %s, %s)
ON CONFLICT (did, path) DO UPDATE SET cid = EXCLUDED.cid, rev = EXCLUDED.rev
"""
_DELETE = """
DELETE FROM records AS r USING unnest(%s, %s) AS gone (did, path)
WHERE r.did = gone.did AND r.path = gone.path
"""
_CLEAR = """
DELETE FROM records AS r USING unnest(%s, %s) AS done (did, rev)
WHERE r.did = done.did AND r.cid IS NULL AND r.rev <= done.rev
"""


async def read(connection: Connection, keys: Sequence[tuple[str, str]]) -> list[Record]:
    """Return the rows among ``keys``, pairs of DID and path."""
    wanted = [Texts([did for did, _ in keys]), Texts([path for _, path in keys])]
    return await (await connection.execute(_READ, wanted, binary=True)).fetchall()


async def read_intervals(
    connection: Connection, wanted: Sequence[tuple[str, Interval]]
) -> list[Record]:
    """Return all rows, tombstones included, in ``wanted``: pairs of DID and interval of paths."""
    bounds = [
        Texts([did for did, _ in wanted]),
        Texts([_bound(interval.lower) for _, interval in wanted]),
        Texts([_bound(interval.upper or _ABOVE_ALL) for _, interval in wanted]),
    ]
    cursor = await connection.execute(_READ_INTERVALS, bounds, binary=True)
    return await cursor.fetchall()


def _bound(text: str) -> str:
    """Return a bound as PostgreSQL can hold it: no path has a character as low as these two."""
    return text.replace("\0", "\1")


async def read_repos(connection: Connection, dids: Sequence[str]) -> list[Record]:
    """Return all rows of ``dids``, tombstones included."""
    cursor = await connection.execute(_READ_REPOS, [Texts(dids)], binary=True)
    return await cursor.fetchall()


async def read_first(connection: Connection, did: str, limit: int) -> list[Record]:
    """Return the first ``limit`` rows of ``did``, in the order of their paths."""
    return await (await connection.execute(_READ_FIRST, [did, limit], binary=True)).fetchall()


async def boundaries(connection: Connection, did: str, every: int) -> list[str]:
    """Return every ``every``-th path of ``did``, in order."""
    rows = await (await connection.execute(_BOUNDARIES, [did, every])).fetchall()
    return [path for (path,) in rows]


async def write(connection: Connection, rows: Sequence[Record]) -> None:
    """Create or replace rows; a key occurs at most once."""
    dids, paths, cids, revs = zip(*rows, strict=True)
    await connection.execute(_WRITE, [Texts(dids), Texts(paths), Byteas(cids), Texts(revs)])


async def delete(connection: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Delete the rows of ``keys``, pairs of DID and path, tombstones included."""
    gone = [Texts([did for did, _ in keys]), Texts([path for _, path in keys])]
    await connection.execute(_DELETE, gone)


async def clear_tombstones(connection: Connection, through: Sequence[tuple[str, str]]) -> None:
    """Delete the tombstones at or below a rev; ``through`` are pairs of DID and rev."""
    done = [Texts([did for did, _ in through]), Texts([rev for _, rev in through])]
    await connection.execute(_CLEAR, done)
