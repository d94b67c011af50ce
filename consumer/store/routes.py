"""The routes that events were last given, and whether the topics hold what these say.

What was published before a change stays in the topic of then.  ``sync --all --emit-all`` that was
begun after the change brings every record to its topic of today.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg.types.json import Jsonb

from consumer.store.session import Session

# A deployment that has published something without a row here had one topic.
_NOTE = """
INSERT INTO routes AS known (routes, changed_at) VALUES (
    %(routes)s,
    CASE WHEN %(routes)s <> '{}' AND EXISTS (SELECT FROM lanes WHERE last_out_seq > 0)
    THEN clock_timestamp() END
)
ON CONFLICT (one_row) DO UPDATE SET routes = EXCLUDED.routes, changed_at = (
    SELECT clock_timestamp() WHERE EXISTS (SELECT FROM lanes WHERE last_out_seq > 0)
)
WHERE known.routes <> EXCLUDED.routes
"""
_FOUND = "SELECT to_regclass('routes') IS NOT NULL"
_READ = "SELECT routes, changed_at FROM routes"
_CHANGED_AT = "SELECT changed_at FROM routes"
_FILLED = """
UPDATE routes SET changed_at = NULL
FROM bulks WHERE bulks.operation = %s AND bulks.opened_at > routes.changed_at
"""


@dataclass(frozen=True, slots=True)
class Known:
    """The routes of the processes that started last, and since when the topics lag behind them."""

    routes: dict[str, str]
    changed_at: datetime | None


async def note(connection: Session, routes: Mapping[str, str]) -> datetime | None:
    """Keep ``routes`` as the current ones; return since when the topics do not hold what they say.

    None: they do.
    """
    await connection.execute(_NOTE, {"routes": Jsonb(dict(routes))})
    return await changed_at(connection)


async def read(connection: Session) -> Known | None:
    """Return what is known, None where nothing has run yet."""
    row = await (await connection.execute(_FOUND)).fetchone()
    if not (row and row[0]):
        return None
    row = await (await connection.execute(_READ)).fetchone()
    return Known(*row) if row else None


async def changed_at(connection: Session) -> datetime | None:
    """Return since when the topics do not hold what the routes say, None if they do."""
    row = await (await connection.execute(_CHANGED_AT)).fetchone()
    return row[0] if row else None


async def filled(connection: Session, operation: str) -> None:
    """Note that the parent ``operation`` has published every record, after it was opened."""
    await connection.execute(_FILLED, [operation])
