"""Accounts that an operator has forgotten: all that stays of one is the number of its incarnation.

The number keeps the ids of events apart: what comes back is published again under new ids.
"""

from __future__ import annotations

from collections.abc import Mapping

from consumer.store.arrays import Bigints, Texts
from consumer.store.database import Connection

_READ = "SELECT did, incarnation FROM forgotten WHERE lane = %s"
_NOTE = """
INSERT INTO forgotten (did, lane, incarnation)
SELECT did, %s, incarnation FROM unnest(%s, %s) AS new (did, incarnation)
ON CONFLICT (did) DO UPDATE SET incarnation = EXCLUDED.incarnation, forgotten_at = now()
"""
# Records go one by one, because each has its event; operations stay as history.
_TABLES = ("repos", "identities", "lookups", "account_answers", "parked", "parking", "found")


async def read(connection: Connection, lane: int) -> dict[str, int]:
    """Return the accounts of the lane that were forgotten, with their next incarnation."""
    return dict(await (await connection.execute(_READ, [lane])).fetchall())


async def forget(connection: Connection, lane: int, incarnations: Mapping[str, int]) -> None:
    """Delete what is known of accounts beside their records; keep their next incarnation."""
    dids = Texts(list(incarnations))
    for table in _TABLES:
        await connection.execute(f"DELETE FROM {table} WHERE did = ANY(%s)", [dids])  # noqa: S608
    await connection.execute(_NOTE, [lane, dids, Bigints(list(incarnations.values()))])
