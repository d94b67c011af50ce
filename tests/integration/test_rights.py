"""Missing rights are named before they are needed, and those that are enough are enough."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import psycopg
import pytest
from pydantic import SecretStr

from consumer.cli.check import check
from consumer.config.settings import (
    IdentitySettings,
    PostgresSettings,
    RelaySettings,
    ScopeSettings,
)
from consumer.errors import Fatal, Transient
from consumer.scope import History
from consumer.store import deployment, lanes
from consumer.store.database import Database
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

pytestmark = pytest.mark.services

EVERYTHING = "SELECT, INSERT, UPDATE, DELETE"


@dataclass(frozen=True, slots=True)
class Role:
    """A role that owns nothing, in the database of a deployment."""

    deployment: Deployment
    name: str

    @property
    def schema(self) -> str:
        return self.deployment.prefix.removesuffix(".")

    async def told(self, *statements: str) -> None:
        """Let the administrator execute ``statements``, with the names of role and schema."""
        async with await psycopg.AsyncConnection.connect(
            self.deployment.dsn, autocommit=True
        ) as connection:
            for statement in statements:
                text = statement.format(role=self.name, schema=self.schema)
                await connection.execute(text.encode())

    def database(self, parameters: str = "") -> Database:
        """Return the database as this role sees it."""
        place = self.deployment.dsn.rpartition("@")[2]
        dsn = f"postgresql://{self.name}:secret@{place}{parameters}"
        return Database(PostgresSettings(dsn=SecretStr(dsn)), self.deployment.prefix)

    async def lacking(self) -> str:
        return "; ".join(await self.database().lacking())


@pytest.fixture
async def role(deployment: Deployment) -> AsyncIterator[Role]:
    role = Role(deployment, f"role_{deployment.prefix.removesuffix('.')}")
    await role.told("CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    yield role
    await role.told("DROP OWNED BY {role} CASCADE", "DROP ROLE {role}")


async def granted(role: Role) -> None:
    """Let an owner make the tables, and give the role what is needed to use them."""
    owner = Database(role.deployment.postgres(), role.deployment.prefix)
    await owner.open()
    await owner.close()
    await role.told(
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        f"GRANT {EVERYTHING} ON ALL TABLES IN SCHEMA {{schema}} TO {{role}}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    )


async def test_a_role_that_may_use_the_tables_needs_no_more(role: Role) -> None:
    await granted(role)
    assert await role.lacking() == ""
    database = role.database()
    await database.open()
    async with database.transaction() as connection:
        await lanes.read_all(connection)
    await database.close()


async def test_each_right_that_is_missing_is_named(role: Role) -> None:
    said = await role.lacking()
    assert f"may not create schema {role.schema}: GRANT CREATE ON DATABASE" in said
    await granted(role)
    await role.told(
        "REVOKE DELETE ON {schema}.repos, {schema}.records FROM {role}",
        "REVOKE INSERT ON {schema}.lanes FROM {role}",
    )
    said = await role.lacking()
    assert f"role {role.name} has no DELETE on records, repos: GRANT DELETE ON ALL TABLES" in said
    assert "has no INSERT on lanes" in said
    await role.told("REVOKE USAGE ON SCHEMA {schema} FROM {role}")
    assert f"GRANT USAGE ON SCHEMA {role.schema} TO {role.name}" in await role.lacking()


async def test_a_right_that_is_denied_later_says_who_names_them_all(role: Role) -> None:
    await granted(role)
    database = role.database()
    await database.open()
    await role.told("REVOKE SELECT ON {schema}.lanes FROM {role}")
    with pytest.raises(Fatal, match=r"permission denied .*'consumer check' names every right"):
        async with database.transaction() as connection:
            await lanes.read_all(connection)
    await database.close()


async def test_a_gateway_begins_with_what_it_may_read(role: Role) -> None:
    mine = deployment.Deployment("cluster", role.deployment.prefix, 8)
    await granted(role)
    await role.told(
        "REVOKE INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} FROM {role}",
        "GRANT INSERT, UPDATE, DELETE ON {schema}.gateway_requests TO {role}",
        "INSERT INTO {schema}.deployment (cluster_id, prefix, partitions) "
        "VALUES ('cluster', '{schema}.', 8)",
    )
    database = role.database()
    await database.open()
    async with database.transaction() as connection:
        await deployment.check(connection, mine)
    with pytest.raises(Fatal, match="belong to another deployment"):
        async with database.transaction() as connection:
            await deployment.check(connection, replace(mine, partitions=9))
    await database.close()


async def test_migrations_that_are_left_are_their_owners(role: Role) -> None:
    await granted(role)
    await role.told("DELETE FROM {schema}.schema_versions WHERE version > 19")
    said = await role.lacking()
    assert "migrations of schema" in said
    assert "start one process once as " in said
    await role.told("ALTER SCHEMA {schema} OWNER TO {role}")
    assert "start one process once as " in await role.lacking()


async def test_a_server_that_only_reads_is_named(role: Role) -> None:
    await granted(role)
    await role.told("ALTER ROLE {role} SET default_transaction_read_only = on")
    with pytest.raises(Transient, match="read-only"):
        await role.database().lacking()
    (said,) = await role.database("?target_session_attrs=any").lacking()
    assert "read-only: name one that can be written to in postgres.dsn" in said


async def test_check_says_all_that_is_well_and_what_is_not(role: Role) -> None:
    await granted(role)
    dsn = role.deployment.dsn.rpartition("@")[2]
    settings = role.deployment.settings(
        postgres=PostgresSettings(dsn=SecretStr(f"postgresql://{role.name}:secret@{dsn}")),
        relay=RelaySettings(url="ws://127.0.0.1:1"),
        identity=IdentitySettings(plc_url="http://127.0.0.1:1"),
        scope=ScopeSettings(history=History.LIVE),
    )

    async def well() -> bool:
        answers = await check(settings)
        return all(answers[name].ok for name in ("postgres", "tables", "topics", "kafka", "clock"))

    await eventually(well, what="coordinators of a new cluster", deadline=90)
    await role.told("REVOKE UPDATE ON {schema}.operations FROM {role}")
    tables = (await check(settings))["tables"]
    assert tables.ok is False
    assert "has no UPDATE on operations" in tables.detail
