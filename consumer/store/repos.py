"""Repositories: the state of each, one row per DID.

The row's dataclass belongs to the state machine (``consumer.state.repo_state.Repo``).  ``Repos``
maps its fields to columns by name; fields with another name than their column are in
``_RENAMED``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any, Generic, TypeVar

from consumer.errors import Fatal
from consumer.store.arrays import Bigints, Booleans, Byteas, Column, Doubles, Jsons, Texts
from consumer.store.database import Connection

Row = TypeVar("Row")

_TEXTS = (
    "did status sync_state reason rev gap_rev hint_rev floor_rev proof_rev pds"
    " snapshot_operation snapshot_rev snapshot_through"
    " frame_status status_relay inactive_rev gone_host"
)
_BIGINTS = "lane status_session status_seq want incarnation snapshot_attempt"
_RENAMED = {"status_epoch": "status_session", "resync_generation": "want"}
_COLUMNS: dict[str, Callable[[Sequence[Any]], Column]] = {
    **dict.fromkeys(_TEXTS.split(), Texts),
    **dict.fromkeys(_BIGINTS.split(), Bigints),
    **dict.fromkeys(("data", "scope"), Byteas),
    "complete": Booleans,
    "gone_at": Doubles,
    "warnings": Jsons,
}

_KNOWN = "SELECT did FROM repos WHERE did = ANY(%s)"
_LISTED = "SELECT did FROM repos WHERE did > %s ORDER BY did LIMIT %s"
_CONTRADICTED = """
SELECT r.did, r.lane, r.status_session, r.status_seq
FROM unnest(%s, %s) AS listed (did, active) JOIN repos AS r ON r.did = listed.did
WHERE (r.status = 'active') <> listed.active
"""
_PRESENT = """
SELECT did FROM repos WHERE did > %s AND status <> 'deleted' ORDER BY did LIMIT %s
"""
_JOINED = "SELECT did FROM repos WHERE first_seen > now() - make_interval(secs => %s)"


class Repos(Generic[Row]):
    """The table ``repos`` as rows of ``make``, a dataclass whose fields are its columns.

    Raises ``Fatal`` if a field has no column.
    """

    def __init__(self, make: type[Row]) -> None:
        attributes = [field.name for field in fields(make)]  # type: ignore[arg-type] # any
        names = [_RENAMED.get(name, name) for name in attributes]
        if unknown := set(names) - _COLUMNS.keys():
            raise Fatal(f"repos has no columns {sorted(unknown)}")
        self._make = make
        self._columns = [_COLUMNS[name] for name in names]
        self._values = attrgetter(*attributes)
        selected = ", ".join(names)
        self._read = f"SELECT {selected} FROM repos WHERE did = ANY(%s)"  # noqa: S608 — field names
        self._page = (
            f"SELECT {selected} FROM repos WHERE lane = %s AND did > %s"  # noqa: S608
            " ORDER BY did LIMIT %s"
        )
        self._page_of_others = (
            f"SELECT {selected} FROM repos WHERE lane = %s AND did > %s"  # noqa: S608
            " AND scope IS DISTINCT FROM %s ORDER BY did LIMIT %s"
        )
        self._write = _upsert(names)

    async def read(self, connection: Connection, dids: Sequence[str]) -> list[Row]:
        """Return the rows of ``dids``."""
        cursor = await connection.execute(self._read, [Texts(dids)], binary=True)
        return [self._make(*row) for row in await cursor.fetchall()]

    async def page(self, connection: Connection, lane: int, after: str, limit: int) -> list[Row]:
        """Return the rows of a lane that follow the DID ``after``, in order."""
        cursor = await connection.execute(self._page, [lane, after, limit], binary=True)
        return [self._make(*row) for row in await cursor.fetchall()]

    async def page_of_others(
        self, connection: Connection, lane: int, after: str, limit: int, scope: bytes
    ) -> list[Row]:
        """Return the rows like ``page``, without those of ``scope``."""
        columns = [lane, after, scope, limit]
        cursor = await connection.execute(self._page_of_others, columns, binary=True)
        return [self._make(*row) for row in await cursor.fetchall()]

    async def write(self, connection: Connection, rows: Iterable[Row]) -> None:
        """Create or replace rows; a DID occurs at most once."""
        values = zip(*map(self._values, rows), strict=True)
        columns = [make(column) for make, column in zip(self._columns, values, strict=True)]
        await connection.execute(self._write, columns)


async def known(connection: Connection, dids: Sequence[str]) -> set[str]:
    """Return which of ``dids`` have a row."""
    rows = await (await connection.execute(_KNOWN, [Texts(dids)])).fetchall()
    return {did for (did,) in rows}


async def dids(connection: Connection, after: str, limit: int) -> list[str]:
    """Return DIDs that have a row, the tracked repositories, in order, behind ``after``."""
    cursor = await connection.execute(_LISTED, [after, limit], binary=True)
    return [did for (did,) in await cursor.fetchall()]


async def present(connection: Connection, after: str, limit: int) -> list[str]:
    """Return the DIDs of accounts that are not deleted, in order, behind ``after``."""
    rows = await connection.execute(_PRESENT, [after, limit])
    return [did for (did,) in await rows.fetchall()]


async def contradicted(
    connection: Connection, active: Sequence[str], inactive: Sequence[str]
) -> list[tuple[str, int, int, int]]:
    """Return DID, lane, and epoch and seq of the status of repos whose account is known otherwise.

    ``active`` and ``inactive`` are DIDs as a listing states them.
    """
    dids_, states = [*active, *inactive], [True] * len(active) + [False] * len(inactive)
    cursor = await connection.execute(_CONTRADICTED, [Texts(dids_), Booleans(states)])
    return await cursor.fetchall()


async def joined(connection: Connection, seconds: float) -> set[str]:
    """Return the DIDs whose row was made by a transaction begun in the last ``seconds``."""
    return {did for (did,) in await (await connection.execute(_JOINED, [seconds])).fetchall()}


def _upsert(names: Sequence[str]) -> str:
    listed = ", ".join(names)
    marks = ", ".join(["%s"] * len(names))
    updated = ", ".join(f"{name} = EXCLUDED.{name}" for name in names if name != "did")
    return (
        f"INSERT INTO repos ({listed}) "  # noqa: S608 — names of a dataclass
        f"SELECT * FROM unnest({marks}) AS new ({listed}) "
        f"ON CONFLICT (did) DO UPDATE SET {updated}, updated_at = now()"
    )
