"""What the database lets this role do, asked before it is needed.

The processes read and write the tables.  Making them, and changing them in a migration, is the
owner's: another role can do it, by starting one process once after an upgrade.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, LiteralString

from psycopg import sql

from consumer.store.schema import Migration
from consumer.store.session import Session

_SERVER = """
SELECT current_user, current_database(), pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on',
       has_database_privilege(current_database(), 'CREATE'),
       to_regnamespace(quote_ident(%(schema)s)) IS NOT NULL
"""
_SCHEMA = """
SELECT has_schema_privilege(%(schema)s::text, 'USAGE'),
       has_schema_privilege(%(schema)s::text, 'CREATE')
"""
_TABLES = """
SELECT privilege, relname
FROM pg_class, unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS privilege
WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relkind IN ('r', 'p')
  AND (relname <> 'schema_versions' OR privilege = 'SELECT')
  AND NOT has_table_privilege(pg_class.oid, privilege)
UNION ALL
SELECT 'USAGE', relname FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s))
  AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(pg_class.oid, 'USAGE') END
ORDER BY 1, 2
"""
_OWNERS = """
SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class
WHERE relnamespace = to_regnamespace(quote_ident(%(schema)s)) AND relkind IN ('r', 'p')
  AND NOT pg_has_role(relowner, 'USAGE')
"""
_VERSIONED = "SELECT to_regclass(quote_ident(%(schema)s) || '.schema_versions') IS NOT NULL"
_NEWEST = sql.SQL("SELECT coalesce(max(version), 0) FROM {}.schema_versions")


async def lacking(connection: Session, schema: str, known: tuple[Migration, ...]) -> list[str]:
    """Return what the role of ``connection`` cannot do with ``schema``, a sentence each.

    ``known`` are the migrations of this program.  Raises psycopg's errors.
    """
    role, database, standby, read_only, may_create, exists = await _row(connection, _SERVER, schema)
    if standby or read_only:
        kind = "a standby" if standby else "read-only"
        return [f"the server is {kind}: name one that can be written to in postgres.dsn"]
    if not exists:
        grant = f"GRANT CREATE ON DATABASE {database} TO {role}"
        return [] if may_create else [f"role {role} may not create schema {schema}: {grant}"]
    usage, create = await _row(connection, _SCHEMA, schema)
    if not usage:
        grant = f"GRANT USAGE ON SCHEMA {schema} TO {role}"
        return [f"role {role} may not use schema {schema}: {grant}"]
    denied: defaultdict[str, list[str]] = defaultdict(list)
    rows = await connection.execute(_TABLES, {"schema": schema})
    for privilege, table in await rows.fetchall():
        denied[privilege].append(table)
    found = [
        f"role {role} has no {privilege} on {', '.join(tables)}: {_grant(privilege, schema, role)}"
        for privilege, tables in denied.items()
    ]
    if "schema_versions" in denied["SELECT"]:
        return found
    left = await _left(connection, schema, known)
    rows = await connection.execute(_OWNERS, {"schema": schema})
    owners = [owner for (owner,) in await rows.fetchall()]
    if left and (owners or not create):
        by = " and ".join(owners) or f"a role that has CREATE on schema {schema}"
        found.append(
            f"{left} migrations of schema {schema} are left, and role {role} may not apply them: "
            f"start one process once as {by}"
        )
    return found


async def _left(connection: Session, schema: str, known: tuple[Migration, ...]) -> int:
    """Return how many migrations are not applied yet."""
    (versioned,) = await _row(connection, _VERSIONED, schema)
    newest = 0
    if versioned:
        cursor = await connection.execute(_NEWEST.format(sql.Identifier(schema)))
        newest = int((await cursor.fetchone() or (0,))[0])
    return sum(migration.version > newest for migration in known)


def _grant(privilege: str, schema: str, role: str) -> str:
    kind = "SEQUENCES" if privilege == "USAGE" else "TABLES"
    return f"GRANT {privilege} ON ALL {kind} IN SCHEMA {schema} TO {role}"


async def _row(connection: Session, query: LiteralString, schema: str) -> tuple[Any, ...]:
    """Return the one row of ``query``."""
    return await (await connection.execute(query, {"schema": schema})).fetchone() or ()
