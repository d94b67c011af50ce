"""Identities: what the DID document of an account stated when it was last resolved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consumer.store.arrays import Doubles, Texts
from consumer.store.database import Connection
from consumer.store.rows import Identity

_READ = """
SELECT did, signing_key, pds, handle, error, extract(epoch FROM fetched_at)::float8
FROM identities WHERE did = ANY(%s)
"""
# An older answer that arrives late changes nothing.
_WRITE = """
INSERT INTO identities AS known (did, signing_key, pds, handle, error, fetched_at)
SELECT did, signing_key, pds, handle, error, to_timestamp(fetched_at)
FROM unnest(%s, %s, %s, %s, %s, %s)
    AS new (did, signing_key, pds, handle, error, fetched_at)
ON CONFLICT (did) DO UPDATE SET
    signing_key = EXCLUDED.signing_key,
    pds = EXCLUDED.pds,
    handle = EXCLUDED.handle,
    error = EXCLUDED.error,
    fetched_at = EXCLUDED.fetched_at
WHERE known.fetched_at <= EXCLUDED.fetched_at
"""


async def read(connection: Connection, dids: Sequence[str]) -> list[Identity]:
    """Return the known identities of ``dids``."""
    cursor = await connection.execute(_READ, [Texts(dids)])
    return [Identity(*row) for row in await cursor.fetchall()]


async def write(connection: Connection, identities: Iterable[Identity]) -> None:
    """Keep the newest answer for each DID; ``identities`` has at most one for a DID."""
    rows = list(identities)
    await connection.execute(
        _WRITE,
        [
            Texts([row.did for row in rows]),
            Texts([row.signing_key for row in rows]),
            Texts([row.pds for row in rows]),
            Texts([row.handle for row in rows]),
            Texts([row.error for row in rows]),
            Doubles([row.fetched_at for row in rows]),
        ],
    )
