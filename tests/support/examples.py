"""The programs of ``examples``, started and killed as processes, and what they have stored."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from consumer.kafka.reader import Record
from tests.support import npm
from tests.support.prepared import prepared

_HERE = Path(__file__).parents[2] / "examples"


@dataclass
class Index:
    """What an example has stored, and what it should have after ``offsets``.

    ``records``: rev, CID and the event's JSON, by AT-URI; ``accounts``: active, status and
    stale, by DID; ``shown``: the JSON of the record, and stale, by AT-URI; ``lanes``: up to when
    each is complete, and its snapshot.
    """

    offsets: dict[int, int] = field(default_factory=dict)
    records: dict[str, tuple[str, str, Any]] = field(default_factory=dict)
    accounts: dict[str, tuple[bool, str, bool]] = field(default_factory=dict)
    shown: dict[str, tuple[Any, bool]] = field(default_factory=dict)
    lanes: dict[int, tuple[str | None, str | None]] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How far it has come, in offsets of all partitions."""
        return sum(self.offsets.values())


def fold(records: Iterable[Record], offsets: dict[int, int], nul: str = "\0") -> Index:
    """Return the index that the records of a topic below ``offsets`` add up to.

    ``nul`` stands for the character 0, which PostgreSQL does not take.
    """
    index = Index(offsets)
    for record in records:
        if record.offset < offsets.get(record.partition, 0):
            event = None if record.value is None else _with(nul, json.loads(record.value))
            _take(index, (record.key or b"").decode(), event or {"type": "tombstone"})
    for uri, (_, _, event) in index.records.items():
        active, _, stale = index.accounts.get(event["did"], _NEW)
        if active:
            index.shown[uri] = event["record"], stale
    return index


_NEW = True, "active", False
_SILENT = None, None


def _with(nul: str, value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", nul)
        case dict():
            return {name: _with(nul, member) for name, member in value.items()}
        case list():
            return [_with(nul, each) for each in value]
        case _:
            return value


def _take(index: Index, key: str, event: dict[str, Any]) -> None:
    active, status, stale = index.accounts.get(event.get("did", ""), _NEW)
    match event["type"]:
        case "tombstone":
            index.records.pop(key, None)
        case "record" if event["action"] == "delete":
            index.records.pop(event["uri"], None)
        case "record":
            index.records[event["uri"]] = event["rev"], event["cid"], event
        case "account":
            index.accounts[event["did"]] = event["active"], event["status"], stale
        case "sync":
            index.accounts[event["did"]] = active, status, event["state"] != "active"
        case "progress":
            index.lanes[event["lane"]] = event["asOf"], index.lanes.get(event["lane"], _SILENT)[1]
        case "snapshot_complete":
            index.lanes[event["lane"]] = (
                index.lanes.get(event["lane"], _SILENT)[0],
                event["snapshot"],
            )


_NO_TABLE = sqlite3.OperationalError, psycopg.errors.UndefinedTable


Query = Callable[[str], list[Any]]
"""Carries out a statement and returns its rows."""

_NO_TABLE = sqlite3.OperationalError, psycopg.errors.UndefinedTable


@dataclass(frozen=True, slots=True)
class Example:
    """One of the programs, built, with the address of the database that it writes.

    ``opened`` gives a transaction in that database; ``nul`` is what it has for the character 0.
    """

    command: tuple[str, ...]
    database: str
    opened: Callable[[str], AbstractContextManager[Query]]
    nul: str = "\0"

    @asynccontextmanager
    async def running(self, *place: str) -> AsyncIterator[Process]:
        """Run the program during the block on a ``place`` (servers, topic), and kill it."""
        out, err = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
        command = (*self.command, *place, self.database)
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=err)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def refusal(self, *place: str) -> str:
        """Return what the program says, which ends by itself because it cannot go on."""
        async with self.running(*place) as process, asyncio.timeout(90.0):
            said, _ = await process.communicate()
        assert process.returncode
        assert process.returncode > 0
        return said.decode()

    def stored(self) -> Index:
        """Return what is stored now; without tables yet, nothing."""
        with suppress(*_NO_TABLE), self.opened(self.database) as query:
            return _of_rows(query)
        return Index()

    def done(self) -> int:
        """Return how far it has come, in offsets of all partitions."""
        with suppress(*_NO_TABLE), self.opened(self.database) as query:
            [(done,)] = query("SELECT sum(next) FROM offsets")
            return int(done or 0)
        return 0

    def execute(self, statement: str) -> None:
        """Change what is stored."""
        with self.opened(self.database) as query:
            query(statement)


def _of_rows(rows: Query) -> Index:
    return Index(
        dict(rows("SELECT partition, next FROM offsets")),
        {
            uri: (rev, cid, json.loads(event))
            for uri, rev, cid, event in rows(
                "SELECT uri, rev, cid, CAST(event AS text) FROM records"
            )
        },
        {
            did: (bool(active), status, bool(stale))
            for did, active, status, stale in rows(
                "SELECT did, active, status, stale FROM accounts"
            )
        },
        {
            uri: (json.loads(record), bool(stale))
            for uri, record, stale in rows("SELECT uri, CAST(record AS text), stale FROM shown")
        },
        {lane: (_moment(as_of), snapshot) for lane, as_of, snapshot in rows("SELECT * FROM lanes")},
    )


def _moment(value: str | datetime | None) -> str | None:
    if isinstance(value, datetime):
        value = value.astimezone(UTC).isoformat(timespec="milliseconds")
        return value.replace("+00:00", "Z")
    return value


@contextmanager
def _sqlite(path: str) -> Iterator[Query]:
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60.0)) as database, database:
        database.execute("BEGIN")
        yield lambda statement: database.execute(statement).fetchall()


@contextmanager
def _postgres(dsn: str) -> Iterator[Query]:
    with psycopg.connect(dsn) as database:
        database.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ

        def query(statement: str) -> list[Any]:
            cursor = database.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

        yield query


Build = Callable[[Path, str], Awaitable[Example]]
"""Builds an example: takes a folder of the test's own, and the address of a PostgreSQL database."""


async def python(folder: Path, _: str) -> Example:
    command = (sys.executable, str(_HERE / "python" / "follow.py"))
    return Example(command, str(folder / "index.sqlite"), _sqlite)


async def go(folder: Path, _: str) -> Example:
    _need("go")
    place = await prepared(_HERE / "go", ["go", "build", "-mod=readonly", "-o", "follow", "."])
    return Example((str(place / "follow"),), str(folder / "index.sqlite"), _sqlite)


async def java(folder: Path, _: str) -> Example:
    _need("javac", "mvn")
    build = ["mvn", "--batch-mode", "compile", "dependency:copy-dependencies"]
    target = await prepared(_HERE / "java", build) / "target"
    quick = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")  # to start
    command = ("java", *quick, "-cp", f"{target}/classes:{target}/dependency/*", "Follow")
    return Example(command, str(folder / "index.sqlite"), _sqlite)


async def typescript(_: Path, dsn: str) -> Example:
    _need("npm")
    place = await npm.installed(_HERE / "typescript", ["npm", "run", "build"])
    schema = f"follow_{token_hex(4)}"
    with psycopg.connect(dsn) as database:
        database.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
    address = f"{dsn}?options=-csearch_path%3D{schema}"
    return Example(("node", str(place / "follow.js")), address, _postgres, nul="\ufffd")


def _need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
