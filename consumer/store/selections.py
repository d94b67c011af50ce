"""Selections as pages of DIDs: which repositories a command for many of them is for.

A page looks at a bounded number of rows, whatever it finds among them, so that one transaction
stays short; ``SelectedPage.after`` is where the next one goes on.  In order of the DIDs each is
chosen once; what is tracked only after its page was read, and lies before its end, is not chosen.
``procedures/selections.py`` says what the selectors mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from psycopg.errors import QueryCanceled

from consumer.scope import interval_of
from consumer.store.database import Connection
from procedures.selections import By, Selection

_LOOKED_AT = 5_000  # rows of one page
_COUNT_MILLISECONDS = 3_000

_DELETED = "coalesce(r.status = 'deleted', false)"
_LOOK_AT_REPOS = """
SELECT did, status FROM repos AS r WHERE did > %(after)s {where} ORDER BY did LIMIT %(limit)s
"""
_IN_COLLECTION = """EXISTS (
    SELECT FROM records AS e WHERE e.did = r.did AND e.path >= %(lower)s AND e.path < %(upper)s
        AND e.cid IS NOT NULL
)"""
_AT_HOST = "AND substring(pds FROM '//(.*)') = %(host)s"
_REPOS = f"""
WITH r AS MATERIALIZED ({_LOOK_AT_REPOS})
SELECT r.did, {_DELETED}, {{wanted}} FROM r ORDER BY r.did
"""  # noqa: S608 - our own SQL
# The last sync that ended, of those that have one that failed.  It may be a cancelled one: that
# of a person who gave up, or of a repo that became active without it.
_FAILED = f"""
WITH f AS MATERIALIZED (
    SELECT DISTINCT did FROM operations
    WHERE type = 'didSync' AND status = 'failed' AND did > %(after)s ORDER BY did LIMIT %(limit)s
)
SELECT f.did, {_DELETED}, last.status = 'failed'
    OR (last.status = 'cancelled' AND r.status = 'active' AND r.sync_state <> 'active')
FROM f LEFT JOIN repos AS r ON r.did = f.did
CROSS JOIN LATERAL (
    SELECT status FROM operations AS o
    WHERE o.did = f.did AND o.type = 'didSync' AND o.completed_at IS NOT NULL
    ORDER BY completed_at DESC LIMIT 1
) AS last
ORDER BY f.did
"""  # noqa: S608
_QUERIES = {
    By.ALL: _REPOS.format(where="", wanted="true"),
    By.HOST: _REPOS.format(where=_AT_HOST, wanted="true"),
    By.COLLECTION: _REPOS.format(where="", wanted=_IN_COLLECTION),
    By.FAILED: _FAILED,
}
_COUNT = (
    "SELECT count(*) FROM ({query}) AS found (did, deleted, wanted) WHERE wanted AND NOT deleted"
)
_COUNT_WITHIN = "SELECT set_config('statement_timeout', %s, true)"


@dataclass(frozen=True, slots=True)
class SelectedPage:
    """DIDs in order, how many were left out as deleted, the last one looked at: None at the end."""

    dids: tuple[str, ...]
    skipped: int
    after: str | None


async def page(connection: Connection, selection: Selection, after: str, most: int) -> SelectedPage:
    """Return up to ``most`` DIDs of ``selection`` behind the DID ``after``; may be none yet."""
    if selection.by is By.DIDS:
        dids = [did for did in selection.dids if did > after]
        return SelectedPage(tuple(dids[:most]), 0, dids[most - 1] if len(dids) > most else None)
    parameters = _parameters(selection) | {"after": after, "limit": _LOOKED_AT}
    rows = await (await connection.execute(_QUERIES[selection.by], parameters)).fetchall()
    chosen: list[str] = []
    skipped = 0
    for number, (did, deleted, wanted) in enumerate(rows, start=1):
        if wanted and deleted:
            skipped += 1
        elif wanted:
            chosen.append(did)
        if len(chosen) == most and number < len(rows):
            return SelectedPage(tuple(chosen), skipped, did)
    return SelectedPage(tuple(chosen), skipped, rows[-1][0] if len(rows) == _LOOKED_AT else None)


async def count(connection: Connection, selection: Selection) -> int | None:
    """Return how many DIDs ``page`` will give in all; None if counting them takes too long."""
    if selection.by is By.DIDS:
        return len(selection.dids)
    sql = _COUNT.format(query=_QUERIES[selection.by])
    parameters = _parameters(selection) | {"after": "", "limit": None}
    try:
        async with connection.transaction():
            await connection.execute(_COUNT_WITHIN, [str(_COUNT_MILLISECONDS)])
            row = await (await connection.execute(sql, parameters)).fetchone()
            await connection.execute(_COUNT_WITHIN, ["0"])
    except QueryCanceled:
        return None
    return int(row[0]) if row else 0


def _parameters(selection: Selection) -> dict[str, Any]:
    if selection.by is By.COLLECTION and selection.value is not None:
        interval = interval_of(selection.value)
        return {"lower": interval.lower, "upper": interval.upper}
    return {"host": selection.value}
