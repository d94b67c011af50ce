"""A PostgreSQL that fails as real ones do, under load: everything is waited out, and named."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import psutil
import psycopg
import pytest
from pydantic import SecretStr

from consumer.config.settings import PostgresSettings
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.errors import Fatal, Transient
from consumer.runtime.health import Health
from consumer.store import session, status
from consumer.store.database import Database
from tests.support.consumer import Start
from tests.support.eventually import eventually
from tests.support.proxy import reserve

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

_WRITERS = 4


@dataclass
class Load:
    """What writers did: numbers committed for each, and the errors that they waited out."""

    committed: list[int] = field(default_factory=lambda: [0] * _WRITERS)
    waited: list[Transient] = field(default_factory=list)
    over: bool = False

    async def write(self, database: Database, number: int) -> None:
        """Write ever higher numbers until it is over; anything but a ``Transient`` ends it."""
        while not self.over:
            value = self.committed[number] + 1
            try:
                async with database.transaction() as connection:
                    await status.mirror_cursor(connection, f"wss://{number}", value, None, 1)
            except Transient as error:
                self.waited.append(error)
                await asyncio.sleep(0.05)
            else:
                self.committed[number] = value

    async def goes_on(self) -> None:
        """Wait until every writer has committed three more."""
        before = list(self.committed)
        await eventually(
            lambda: all(now > then + 2 for then, now in zip(before, self.committed, strict=True)),
            deadline=90,
        )


@asynccontextmanager
async def load_on(database: Database) -> AsyncIterator[Load]:
    load = Load()
    async with asyncio.TaskGroup() as group:
        for number in range(_WRITERS):
            group.create_task(load.write(database, number))
        try:
            await load.goes_on()
            yield load
        finally:
            # Cancelling is not enough: before Python 3.12 ``asyncio.wait_for``, in which psycopg
            # waits, loses a cancellation that comes together with an answer.
            load.over = True


@pytest.fixture
async def own_database(own_postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    database = opened_at(own_postgres.dsn)
    await database.open()
    yield database
    await database.close()


def opened_at(dsn: str) -> Database:
    settings = PostgresSettings(dsn=SecretStr(dsn), pool_size=_WRITERS + 2)
    return Database(settings, "faults.")


async def administer(postgres: EmbeddedPostgres, *statements: str) -> None:
    async with await psycopg.AsyncConnection.connect(postgres.dsn, autocommit=True) as connection:
        for statement in statements:
            await connection.execute(statement.encode())


@contextmanager
def frozen(postgres: EmbeddedPostgres) -> Iterator[None]:
    """Stop the server and all its backends: connections stay, and nothing answers."""
    server = psutil.Process(postgres.server.pid)
    processes = [server, *server.children(recursive=True)]
    for each in processes:
        each.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for each in processes:
            each.send_signal(signal.SIGCONT)


async def test_a_server_that_has_become_read_only_is_left_and_waited_for(
    own_database: Database, own_postgres: EmbeddedPostgres
) -> None:
    reload = "SELECT pg_reload_conf()"
    async with load_on(own_database) as load:
        await administer(
            own_postgres, "ALTER SYSTEM SET default_transaction_read_only = on", reload
        )
        await eventually(
            lambda: any("read-only" in str(error) for error in load.waited), deadline=60
        )
        stuck = list(load.committed)
        with pytest.raises(Transient, match="read-only"):
            await own_database.ping()
        assert load.committed == stuck

        await administer(own_postgres, "ALTER SYSTEM RESET default_transaction_read_only", reload)
        await load.goes_on()
    await own_database.ping()


async def test_killed_backends_are_replaced(
    own_database: Database, own_postgres: EmbeddedPostgres
) -> None:
    kill = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    async with load_on(own_database) as load:
        for _ in range(5):
            seen = len(load.waited)

            async def hit(seen: int = seen) -> bool:
                await administer(own_postgres, kill)
                return len(load.waited) > seen

            await eventually(hit)
            await load.goes_on()


async def test_a_frozen_server_is_waited_out_and_readiness_answers_in_time(
    own_database: Database, own_postgres: EmbeddedPostgres
) -> None:
    health = Health(60.0)
    health.expect({"postgres": own_database.ping}, [])
    async with load_on(own_database) as load:
        await eventually(lambda: is_ready(health), deadline=60)
        with frozen(own_postgres):
            for _ in range(4):
                await asyncio.sleep(2.1)  # an answer is kept for 2 s
                async with asyncio.timeout(30):  # it comes while the server is frozen
                    ready, said = await health.ready()
                assert not ready
                assert re.search("no answer|no session", said["checks"]["postgres"]["error"])
        await load.goes_on()
        await eventually(lambda: is_ready(health), deadline=60)


async def is_ready(health: Health) -> bool:
    """Tell whether this check is well; others look at what the process's other tests have done."""
    _, said = await health.ready()
    return not said["checks"]["postgres"].get("error")


async def test_of_several_hosts_the_one_that_can_be_written_to_is_taken(
    own_postgres: EmbeddedPostgres,
) -> None:
    gone = reserve(0)
    with gone:
        credentials, _, address = own_postgres.dsn.partition("@")
        place, _, name = address.partition("/")
        database = opened_at(f"{credentials}@127.0.0.1:{gone.getsockname()[1]},{place}/{name}")
        await database.open()
        await database.ping()
        await database.close()


async def test_a_refused_password_is_waited_for_and_ends_the_process_when_it_lasts(
    own_database: Database, own_postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    password = own_postgres.dsn.partition("@")[0].rpartition(":")[2]
    await administer(own_postgres, "ALTER ROLE chive PASSWORD 'another'")
    stranger = opened_at(own_postgres.dsn)
    with pytest.raises(Transient, match="password authentication failed"):
        await stranger.attach()
    monkeypatch.setattr(session, "_REFUSED_SECONDS", 0.0)
    with pytest.raises(Fatal, match="password authentication failed"):
        await stranger.attach()
    async with own_database.transaction() as connection:  # a session from before
        await connection.execute(f"ALTER ROLE chive PASSWORD '{password}'".encode())
    await stranger.attach()
    await stranger.close()


@pytest.mark.usefixtures("own_database")
async def test_a_read_only_server_is_not_connected_to_unless_it_is_asked_for(
    own_postgres: EmbeddedPostgres,
) -> None:
    await administer(own_postgres, "ALTER DATABASE chive SET default_transaction_read_only = on")
    with pytest.raises(Transient, match="read-only"):
        await opened_at(own_postgres.dsn).attach()
    anyone = opened_at(f"{own_postgres.dsn}?target_session_attrs=any")
    await anyone.attach()
    with pytest.raises(Transient, match="is read-only"):
        await anyone.ping()
    await anyone.close()


async def test_a_command_says_what_it_waits_for_when_the_server_is_frozen(
    own_database: Database, own_postgres: EmbeddedPostgres, consumer: Start
) -> None:
    environment = {
        "CHIVE_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "CHIVE_KAFKA__TOPIC_PREFIX": "faults.",
        "CHIVE_POSTGRES__DSN": own_postgres.dsn,
        "CHIVE_COMMANDS__DEADLINE": "3",
    }
    with frozen(own_postgres):
        asked = [
            await consumer(*arguments, env=environment)
            for arguments in (["status"], ["operations"], ["repo", f"did:plc:{'a' * 24}"])
        ]
        for command in asked:
            assert await command.ended(60) == 1, command
            assert "PostgreSQL at 127.0.0.1:" in command.lines[-1], command
    await own_database.ping()


async def test_one_failed_session_makes_the_others_be_asked(
    own_database: Database, own_postgres: EmbeddedPostgres
) -> None:
    """A session that was used a moment ago is taken at its word, until one of them fails."""
    together = asyncio.Barrier(3)

    async def used() -> None:
        async with own_database.transaction() as connection:
            await connection.execute("SELECT 1")
            await together.wait()

    await asyncio.gather(*(used() for _ in range(3)))
    async with await psycopg.AsyncConnection.connect(own_postgres.dsn, autocommit=True) as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    with pytest.raises(Transient):
        await own_database.ping()
    for _ in range(3):
        await own_database.ping()
