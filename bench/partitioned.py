"""``python -m bench.partitioned``: the table of records as it is, and partitioned by its DIDs.

A PostgreSQL of its own gets first the one, which is measured and dropped, and then the other, with
the same rows: how large it is, how long it takes to fill, to vacuum after a fiftieth of it has
gone, to dump and to restore, and what the statements of a decision cost on it.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess  # PostgreSQL's own programs
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path
from typing import cast

import click
import psycopg

from bench.processes import cpu_seconds
from bench.quiet import RECORDS, did_of
from consumer.config.settings import LogSettings
from consumer.embedded.postgres import EmbeddedPostgres, binaries
from consumer.runtime import logs
from consumer.store import records
from consumer.store.database import Connection

_PARTITIONS = 8
_EACH = 5  # records of an account
_STATEMENTS = 3_000
_REV = "3lzzzzzzzzzz2"
_CID = bytes.fromhex("01711220") + bytes(32)
_TABLE = """
CREATE TABLE records (
    did  text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    cid  bytea,
    rev  text COLLATE "C" NOT NULL
)
"""
_KEY = "ALTER TABLE records ADD PRIMARY KEY (did, path)"
_PARTITION = """
CREATE TABLE records_{n} PARTITION OF records FOR VALUES WITH (MODULUS {of}, REMAINDER {n})
"""
_SIZES = """
SELECT (sum(pg_table_size(oid)) / 1e9)::float8, (sum(pg_indexes_size(oid)) / 1e9)::float8
FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'
"""


class Shape:
    """The table in one form, in a schema of its own; ``partitions`` 0: a table as it is."""

    def __init__(self, server: EmbeddedPostgres, directory: Path, partitions: int) -> None:
        self._server = server
        self._directory = directory
        self._partitions = partitions
        self._schema = f"partitions_{partitions}"
        self._chance = random.Random(1)

    async def measure(self, rows: int, *, restore: bool) -> None:
        """Print the figures for a table of ``rows``."""
        click.echo(f"{self._partitions or 'no'} partitions, {rows:,} rows")
        async with await psycopg.AsyncConnection.connect(
            self._server.dsn, options=f"-c search_path={self._schema}", autocommit=True
        ) as connection:
            await connection.execute("SET maintenance_work_mem = '1GB'")
            await connection.execute("SET synchronous_commit = off")
            await connection.execute(f"CREATE SCHEMA {self._schema}")
            await self._create(connection)
            numbers = {"first": 0, "last": rows, "accounts": rows // _EACH}
            await self._timed("filled", connection.execute(RECORDS, numbers))
            await self._timed("primary key made", connection.execute(_KEY))
            await connection.execute("VACUUM (ANALYZE) records")
            row = await (await connection.execute(_SIZES)).fetchone()
            assert row is not None
            click.echo(f"  {row[0]:.2f} GB of tables, {row[1]:.2f} GB of indexes")
            await connection.execute("CHECKPOINT")
            await self._statements(connection, rows // _EACH)
            gone = connection.execute("DELETE FROM records WHERE hashtext(path) % 50 = 0")
            await self._timed("a fiftieth deleted", gone)
            await connection.execute("CHECKPOINT")
        vacuum = self._run("vacuumdb", "--quiet", "--jobs", "2", "--schema", self._schema)
        await self._timed("vacuumed", vacuum)
        if restore:
            await self._restore()

    async def drop(self) -> None:
        """Delete the table."""
        async with await psycopg.AsyncConnection.connect(
            self._server.dsn, autocommit=True
        ) as connection:
            await connection.execute(f"DROP SCHEMA {self._schema} CASCADE")

    async def _create(self, connection: psycopg.AsyncConnection) -> None:
        kind = "PARTITION BY HASH (did)" if self._partitions else ""
        await connection.execute(_TABLE + kind)
        for n in range(self._partitions):
            await connection.execute(_PARTITION.format(n=n, of=self._partitions))

    async def _statements(self, connection: psycopg.AsyncConnection, accounts: int) -> None:
        """Measure what a decision does, and the reading of a repository, at random accounts."""
        session = cast("Connection", connection)

        async def decide(number: int) -> None:
            known, new = (did_of(self._chance.randrange(accounts)) for _ in range(2))
            key = (new, f"pub.chive.graph.vote/3l{number:011}")
            rows = [(*key, _CID, _REV)]
            for did, path, *_ in await records.read_first(session, known, 1):
                rows.append((did, path, _CID, _REV))
            async with connection.transaction():
                await records.read(session, [(did, path) for did, path, *_ in rows])
                await records.write(session, rows)

        async def read(_number: int) -> None:
            await records.read_repos(session, [did_of(self._chance.randrange(accounts))])

        for name, statement in (("decision", decide), ("repository read", read)):
            for warm in range(300):
                await statement(-warm)
            before, began = self._spent(), time.monotonic()
            for number in range(_STATEMENTS):
                await statement(number)
            spent, took = self._spent() - before, time.monotonic() - began
            click.echo(
                f"  {name}: {spent / _STATEMENTS * 1e6:.0f} µs of PostgreSQL's CPU, "
                f"{took / _STATEMENTS * 1e6:.0f} µs in all"
            )

    async def _restore(self) -> None:
        target = self._directory / "dump"
        options = ("--format", "directory", "--jobs", "2", "--compress", "none", "--schema")
        dump = self._run("pg_dump", *options, self._schema, "--file", str(target))
        await self._timed("dumped", dump)
        await self.drop()
        await self._timed("restored", self._run("pg_restore", "--jobs", "2", str(target)))
        shutil.rmtree(target)

    async def _run(self, program: str, *options: str) -> None:
        where = ("--dbname", self._server.dsn)
        argv = [str(binaries() / program), *where, *options]
        environment = {**os.environ, "PGOPTIONS": "-c maintenance_work_mem=512MB"}
        await asyncio.to_thread(lambda: subprocess.run(argv, check=True, env=environment))

    def _spent(self) -> float:
        assert self._server.server.pid is not None
        return cpu_seconds(self._server.server.pid)

    @staticmethod
    async def _timed(what: str, work: Awaitable[object]) -> None:
        began = time.monotonic()
        await work
        click.echo(f"  {what} in {time.monotonic() - began:.1f} s")


async def _run(rows: int, parent: Path | None, *, restore: bool) -> None:
    directory = Path(tempfile.mkdtemp(prefix="chive-partitioned-", dir=parent))
    server = EmbeddedPostgres(directory / "postgres")
    try:
        await server.start()
        for partitions in (0, _PARTITIONS):
            shape = Shape(server, directory, partitions)
            await shape.measure(rows, restore=restore)
            await shape.drop()
    finally:
        await server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rows", default=50_000_000, show_default=True, type=click.IntRange(_EACH))
@click.option("--restore", is_flag=True, help="Dump and restore too: twice the disk.")
@click.option("--directory", type=click.Path(path_type=Path), help="For 20 GB, with --restore 40.")
def main(rows: int, restore: bool, directory: Path | None) -> None:
    """Measure the table of records with and without partitions."""
    logs.configure(LogSettings(level="error"))
    asyncio.run(_run(rows, directory, restore=restore))


if __name__ == "__main__":
    main()
