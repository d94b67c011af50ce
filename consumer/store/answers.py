"""Answers about accounts: the newest of each, and the hosts whose deletions wait."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consumer.backfill import AccountAnswer
from consumer.state.accounts import AccountRules
from consumer.store.database import Connection

_NOTE = """
INSERT INTO account_answers AS known (did, asked_at, status, source, host, name)
VALUES (%s, to_timestamp(%s), %s, %s, %s, %s)
ON CONFLICT (did) DO UPDATE SET
    asked_at = EXCLUDED.asked_at, status = EXCLUDED.status, source = EXCLUDED.source,
    host = EXCLUDED.host, name = EXCLUDED.name
WHERE known.asked_at <= EXCLUDED.asked_at
"""
_LAST = """
SELECT status, host, extract(epoch FROM now() - asked_at)::float8
FROM account_answers WHERE did = %s
"""
# Accounts that are gone: unconfirmed ones however old, deleted ones of one day.
_GONE = """
SELECT
    (SELECT count(*) FROM repos
     WHERE gone_host = %(host)s AND gone_at IS NOT NULL AND status <> 'deleted'),
    (SELECT count(*) FROM repos
     WHERE gone_host = %(host)s AND gone_at > extract(epoch FROM now())::float8 - 86400
        AND status = 'deleted')
"""
# A host may have a million accounts, and a decision waits for the answer.
_TRACKED = """
SELECT count(*) FROM (
    SELECT FROM repos WHERE substring(pds FROM '//(.*)') = %s AND status <> 'deleted' LIMIT %s
) AS counted
"""
_HOLD = """
INSERT INTO held_hosts (host, gone, tracked) VALUES (%s, %s, %s)
ON CONFLICT (host) DO UPDATE SET
    gone = EXCLUDED.gone, tracked = EXCLUDED.tracked, seen_at = now()
"""
_RELEASE = "DELETE FROM held_hosts WHERE host = %s"
_HELD = "SELECT host, gone, tracked FROM held_hosts ORDER BY host"


@dataclass(frozen=True, slots=True)
class HeldHost:
    """A host of which more accounts are gone than may be: ``gone`` of ``tracked``."""

    host: str
    gone: int
    tracked: int


async def note(connection: Connection, answer: AccountAnswer) -> None:
    """Keep ``answer`` as the newest about its account, unless a newer one is known."""
    values = [answer.did, answer.asked_at, answer.status, answer.source, answer.host, answer.name]
    await connection.execute(_NOTE, values)


async def last(connection: Connection, did: str) -> tuple[str, str | None, float] | None:
    """Return the newest answer: status, host, and the seconds since; None if there is none."""
    row = await (await connection.execute(_LAST, [did])).fetchone()
    return None if row is None else (row[0], row[1], row[2])


async def weigh(
    connection: Connection, hosts: Iterable[str], rules: AccountRules
) -> dict[str, HeldHost]:
    """Return those of ``hosts`` whose deletions wait, because too many accounts are gone.

    They are noted for ``consumer status``, and the others released.
    """
    held: dict[str, HeldHost] = {}
    for host in sorted(set(hosts)):
        row = await (await connection.execute(_GONE, {"host": host})).fetchone()
        waiting, deleted = (0, 0) if row is None else (int(row[0]), int(row[1]))
        gone = waiting + deleted
        row = await (await connection.execute(_TRACKED, [host, rules.enough(gone)])).fetchone()
        tracked = max(gone, deleted + (0 if row is None else int(row[0])))
        if rules.too_many(gone, tracked):
            held[host] = HeldHost(host, gone, tracked)
            await connection.execute(_HOLD, [host, gone, tracked])
        else:
            await connection.execute(_RELEASE, [host])
    return held


async def held_hosts(connection: Connection) -> list[HeldHost]:
    """Return the hosts whose deletions wait."""
    rows = await (await connection.execute(_HELD)).fetchall()
    return [HeldHost(*row) for row in rows]
