"""A PostgreSQL that demands certificates, and passwords that change while we are connected."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from consumer.config.settings import PostgresSettings
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.errors import ChiveError, Fatal, Transient
from consumer.runtime import secrets
from consumer.services import opened
from consumer.store import session
from consumer.store.database import Database
from tests.support.certificates import Authority
from tests.support.consumer import Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.tls_postgres import Certified

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@asynccontextmanager
async def database_of(dsn: str, **settings: Any) -> AsyncIterator[Database]:
    database = Database(PostgresSettings(dsn=SecretStr(dsn), **settings), "identity.")
    try:
        yield database
    finally:
        await database.close()


async def execute(dsn: str, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


async def works(database: Database) -> bool:
    try:
        await database.ping()
    except Transient:
        return False
    return True


def without_password(dsn: str) -> tuple[str, str]:
    """Return the connection string without its password, and the password."""
    given = conninfo_to_dict(dsn)
    password = str(given.pop("password"))
    return make_conninfo("", **given), password


class Tokens:
    """A command that prints the password of the moment, and counts how often it ran."""

    def __init__(self, directory: Path, password: str) -> None:
        self._password, self._runs = directory / "token", directory / "runs"
        self.set(password)
        script = directory / "token.sh"
        script.write_text('echo >> "$2"; cat "$1"\n')
        words = ("sh", str(script), str(self._password), str(self._runs))
        self.command = shlex.join(words)

    def set(self, password: str) -> None:
        self._password.write_text(f"{password}\n")

    @property
    def runs(self) -> int:
        return self._runs.read_text().count("\n")


_RENEWED = "ALTER ROLE chive PASSWORD 'renewed'"
_END_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


async def test_a_password_of_a_command_is_asked_for_again(
    own_postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secrets, "_REFUSED_SECONDS", 0.2)
    dsn, password = without_password(own_postgres.dsn)
    tokens = Tokens(tmp_path, password)
    async with database_of(dsn, password_command=tokens.command) as database:
        await database.open()
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(database.ping())
        assert tokens.runs == 1  # for the pool and what came before it
        await execute(own_postgres.dsn, _RENEWED, _END_OTHERS)
        refused = database_of(dsn, password_command=tokens.command)
        async with refused as other:
            with pytest.raises(Transient, match=r"28P01: .*postgres\.password_command"):
                await other.attach()
        tokens.set("renewed")
        await eventually(lambda: works(database), deadline=60)
        assert 2 < tokens.runs < 60


async def test_a_password_in_a_file_is_read_for_every_connection(
    own_postgres: EmbeddedPostgres, tmp_path: Path
) -> None:
    dsn, password = without_password(own_postgres.dsn)
    file = tmp_path / "password"
    file.write_text(password + "\n")
    async with database_of(dsn, password_file=file) as database:
        await database.open()
        await database.ping()
        await execute(own_postgres.dsn, _RENEWED, _END_OTHERS)
        file.write_text("renewed\n")
        await eventually(lambda: works(database), deadline=60)
        async with database.listening("anything"):
            pass
        file.unlink()
        nothing = {"password_command": "true"}
        async with database_of(dsn, **nothing) as other:
            with pytest.raises(Transient, match=r"postgres\.password_command: .* no secret"):
                await other.attach()
        with pytest.raises(Transient, match=r"postgres\.password_file: no such file: "):
            async with database.listening("anything"):
                pass


async def test_client_certificates(
    certified: Certified, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn, authority = certified.dsn, certified.authority
    right = authority.issue("chive", password="of the key")  # noqa: S106
    async with database_of(certified.shown(right, sslpassword="of the key")) as database:
        await database.open()
        await database.ping()
        async with database.listening("anything"):
            pass
    for wrong, state in ((dsn, "28000"), (certified.shown(authority.issue("another")), "28P01")):
        monkeypatch.setattr(session, "_REFUSED_SECONDS", 60.0)
        async with database_of(wrong) as database:
            with pytest.raises(Transient, match=state):
                await database.attach()
            monkeypatch.setattr(session, "_REFUSED_SECONDS", 0.0)
            with pytest.raises(Fatal, match=rf"{state}: .*client certificate.*docs/secrets"):
                await database.attach()
    forger = Authority(tmp_path / "forger", "forger")
    async with database_of(certified.shown(forger.issue("chive"))) as database:
        with pytest.raises(Transient, match="unknown ca"):
            await database.attach()


async def test_what_the_server_refuses_by_name_ends_the_process_when_it_lasts(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(
        own_postgres.dsn,
        "CREATE ROLE stranger LOGIN PASSWORD 'known'",
        "REVOKE CONNECT ON DATABASE chive FROM PUBLIC",
        "CREATE ROLE busy LOGIN PASSWORD 'known' CONNECTION LIMIT 0",
        "GRANT CONNECT ON DATABASE chive TO busy",
    )
    monkeypatch.setattr(session, "_REFUSED_SECONDS", 0.0)
    known = {"password": "known"}
    for changed, state, waits in (
        ({"dbname": "nowhere"}, "3D000: .*create the database", False),
        ({"user": "stranger", **known}, "42501: .*grant CONNECT", False),
        ({"user": "busy", **known}, "53300: ", True),
    ):
        async with database_of(make_conninfo(own_postgres.dsn, **changed)) as database:
            with pytest.raises(Transient if waits else Fatal, match=state):
                await database.attach()


async def test_an_old_server_is_named_before_it_refuses_a_setting_that_it_does_not_know(
    own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = session._SETTINGS.replace("'transaction_timeout'", "'timeout_of_tomorrow'")
    monkeypatch.setattr(session, "_SETTINGS", unknown)
    monkeypatch.setattr(session, "_REFUSED_SECONDS", 0.0)
    async with database_of(own_postgres.dsn) as database:
        with pytest.raises(ChiveError, match="unrecognized configuration") as found:
            await database.attach()
        assert "grant" not in str(found.value)  # what helps where a right is missing alone
        monkeypatch.setattr(session, "_MIN_SERVER", 990_000)
        with pytest.raises(Fatal, match=r"newer is needed"):
            await database.attach()


async def test_commands_and_roles_use_secrets_from_files(
    deployment: Deployment, consumer: Start, tmp_path: Path
) -> None:
    dsn, password = without_password(deployment.dsn)
    tokens = Tokens(tmp_path, password)
    address = tmp_path / "dsn"
    address.write_text(dsn + "\n")
    environment = deployment.environment() | {
        "CHIVE_POSTGRES__DSN_FILE": str(address),
        "CHIVE_POSTGRES__PASSWORD_COMMAND": tokens.command,
    }
    del environment["CHIVE_POSTGRES__DSN"]
    run = await consumer(
        "run", "--role", "worker", "--role", "fetcher", "--workers", "1", env=environment
    )
    await run.saying("lane_claimed", times=4, deadline=90)
    status = await consumer("status", env=environment)
    assert await status.ended(60) == 0
    check = await consumer("check", env=environment)
    await check.ended(60)
    assert "# postgres  ok" in check.out
    assert password not in check.out


async def test_a_start_with_a_refused_password_ends_when_that_lasts(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_REFUSED_SECONDS", 1.0)
    wrong = make_conninfo(deployment.dsn, password="wrong")  # noqa: S106
    settings = deployment.settings(postgres=PostgresSettings(dsn=SecretStr(wrong)))
    async with asyncio.timeout(60):
        with pytest.raises(Fatal, match="28P01"):
            async with opened(settings, asyncio.Event()):
                pass
