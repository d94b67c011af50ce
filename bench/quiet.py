"""Rows of accounts that do nothing: what lies around the active ones in the tables.

They are made in PostgreSQL, as fast as it writes: DIDs, paths and CIDs of the real length, in an
order that is not that of the DIDs, as they come in from a network.  Primary keys are built again
behind them: the tables must not be in use while rows are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import md5

import psycopg

_HOSTS = 200

# As in the network a DID says nothing of when it came: neighbours in the table are none in the key.
_DID = "'did:plc:' || translate(left(md5('quiet ' || {n}), 24), '0189', 'wxyz')"
_TID = "'3l' || translate(left(md5('tid ' || {n}), 11), '0189', 'wxyz')"
_CID = "decode('01711220' || md5('cid ' || {n}) || md5('data ' || {n}), 'hex')"

_REPOS = f"""
INSERT INTO repos (did, lane, sync_state, rev, data, complete, scope, pds, first_seen, updated_at)
SELECT {_DID.format(n="n")}, n %% %(lanes)s, 'active', {_TID.format(n="n")}, {_CID.format(n="n")},
    true, %(scope)s, 'https://pds' || n %% {_HOSTS} || '.host.example',
    now() - interval '1 day' - n * interval '1 second', now() - interval '1 day'
FROM generate_series(%(first)s::bigint, %(last)s::bigint - 1) AS n
"""  # noqa: S608 - constants of this module
# Record n belongs to account n modulo the accounts: the records of one lie apart.
RECORDS = f"""
INSERT INTO records (did, path, cid, rev)
SELECT {_DID.format(n="n %% %(accounts)s")},
    (ARRAY['pub.chive.eprint.submission', 'pub.chive.review.comment', 'pub.chive.graph.vote',
        'app.bsky.feed.post'])[n %% 4 + 1] || '/' || {_TID.format(n="n")},
    {_CID.format(n="n")}, {_TID.format(n="n")}
FROM generate_series(%(first)s::bigint, %(last)s::bigint - 1) AS n
"""  # noqa: S608
# All indexes are built again behind the rows.
_INDEXES = """
SELECT c.relname, pg_get_indexdef(i.indexrelid), i.indisprimary
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indrelid = %s::regclass ORDER BY c.relname
"""
_DIGITS = str.maketrans("0189", "wxyz")


def did_of(number: int) -> str:
    """Return the DID of a quiet account."""
    digest = md5(f"quiet {number}".encode(), usedforsecurity=False).hexdigest()
    return f"did:plc:{digest[:24].translate(_DIGITS)}"


class Quiet:
    """Quiet accounts of one deployment; ``dsn`` and ``schema`` say where its tables are."""

    def __init__(self, dsn: str, schema: str) -> None:
        self._dsn = dsn
        self._options = f"-c search_path={schema}"

    async def add_repos(self, first: int, last: int, *, lanes: int, scope: bytes) -> None:
        """Add accounts from number ``first`` up to, but without, ``last``.

        ``scope`` is the digest of what is wanted: with another one all would be synced again.
        """
        numbers = {"first": first, "last": last, "lanes": lanes, "scope": scope}
        await self._add("repos", _REPOS, numbers)

    async def add_records(self, first: int, last: int, *, accounts: int) -> None:
        """Add records from number ``first`` up to ``last`` to the first ``accounts`` accounts."""
        numbers = {"first": first, "last": last, "accounts": accounts}
        await self._add("records", RECORDS, numbers)

    async def _add(self, table: str, sql: str, numbers: Mapping[str, object]) -> None:
        async with await psycopg.AsyncConnection.connect(
            self._dsn, options=self._options, autocommit=True
        ) as connection:
            await connection.execute("SET maintenance_work_mem = '1GB'")
            await connection.execute("SET synchronous_commit = off")
            indexes = await (await connection.execute(_INDEXES, [table])).fetchall()
            async with connection.transaction():
                await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
                for name, _, primary in indexes:
                    if not primary:
                        await connection.execute(f"DROP INDEX {name}")
                await connection.execute(sql, numbers)
                for _, definition, _ in indexes:
                    await connection.execute(definition)
                await connection.execute(
                    f"ALTER TABLE {table} ADD PRIMARY KEY USING INDEX {table}_pkey"
                )
            await connection.execute(f"VACUUM ANALYZE {table}")
