"""The schema of one deployment: its name, and its numbered migrations.

A deployment has one PostgreSQL schema, named after its topic prefix, so that several share a
database.  The files ``sql/NNNN_name.sql`` are applied once each, in order, each in its own
transaction; with an advisory lock any number of processes can start at once.  A schema newer than
this version of the program is refused.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources

from psycopg import sql

from consumer.errors import Fatal
from consumer.store.session import Session

_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_MAX_STEM = 40  # characters, of the 63 bytes that PostgreSQL allows an identifier

_UNBOUNDED = "SET LOCAL transaction_timeout = 0"
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
_VERSIONS = """
CREATE TABLE schema_versions (
    version    integer PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""
# Asked first: to make what is there needs the right to make it as well.
_FOUND = """
SELECT to_regnamespace(quote_ident(%(schema)s)) IS NOT NULL,
       to_regclass(quote_ident(%(schema)s) || '.schema_versions') IS NOT NULL
"""
_NEWEST = "SELECT coalesce(max(version), 0) FROM schema_versions"
_RECORD = "INSERT INTO schema_versions (version, name) VALUES (%s, %s)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file of DDL."""

    version: int
    name: str
    text: str


def schema_of(prefix: str) -> str:
    """Return the schema name for a topic prefix: readable, and different for each prefix."""
    stem = re.sub(r"[^a-z0-9]", "_", prefix.removesuffix("."))
    plain = stem + "." == prefix and len(stem) <= _MAX_STEM and not stem.startswith("pg_")
    if plain and stem not in {"public", "information_schema"}:
        return stem
    return f"x_{stem[:_MAX_STEM]}_{hashlib.sha256(prefix.encode()).hexdigest()[:8]}"


def migrations() -> tuple[Migration, ...]:
    """Return the migrations that this version of the program knows, in order."""
    folder = resources.files("consumer.store") / "sql"
    found = [
        Migration(int(match[1]), entry.name, entry.read_text(encoding="utf-8"))
        for entry in folder.iterdir()
        if (match := _FILE.fullmatch(entry.name))
    ]
    return tuple(sorted(found, key=lambda migration: migration.version))


async def migrate(connection: Session, schema: str, known: tuple[Migration, ...]) -> int:
    """Bring ``schema`` to the newest of ``known``; return how many migrations were applied.

    ``connection`` is a session of ``schema`` that commits by itself.  Raises ``Fatal`` if the
    schema is newer than ``known``, and psycopg's errors.
    """
    applied = 0
    newest = await _prepare(connection, schema)
    latest = known[-1].version
    if newest > latest:
        raise Fatal(
            f"the tables in schema {schema!r} are at version {newest}, "
            f"this program knows versions up to {latest}: run the newer program"
        )
    for migration in known:
        applied += await _apply(connection, schema, migration)
    return applied


async def _prepare(connection: Session, schema: str) -> int:
    async with connection.transaction():
        await connection.begin()
        await connection.execute(_UNBOUNDED)
        await connection.execute(_LOCK, [schema])
        row = await (await connection.execute(_FOUND, {"schema": schema})).fetchone()
        schema_there, table_there = row or (False, False)
        if not schema_there:
            await connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
        if not table_there:
            await connection.execute(_VERSIONS)
        return await _newest(connection)


async def _apply(connection: Session, schema: str, migration: Migration) -> bool:
    async with connection.transaction():
        await connection.begin()
        await connection.execute(_UNBOUNDED)
        await connection.execute(_LOCK, [schema])
        if await _newest(connection) >= migration.version:
            return False
        await connection.execute(migration.text)
        await connection.execute(_RECORD, [migration.version, migration.name])
        return True


async def _newest(connection: Session) -> int:
    row = await (await connection.execute(_NEWEST)).fetchone()
    return int(row[0]) if row else 0
