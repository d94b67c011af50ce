"""Rows by intervals of paths, on a real PostgreSQL."""

from __future__ import annotations

import pytest

from consumer.scope import Interval, interval_of
from consumer.store import records
from consumer.store.database import Database
from consumer.store.rows import Record

pytestmark = pytest.mark.services

ALICE, BOB = "did:plc:alice", "did:plc:bob"
PATHS = ("a.b.c/-", "a.b.c/1", "a.b.c/10", "a.b.c/B", "a.b.c/a", "a.b.cd/1", "a.b.d/1")


async def test_intervals_are_bytewise_and_of_one_did(database: Database) -> None:
    rows: list[Record] = [(ALICE, path, b"cid", "3k") for path in PATHS]
    rows += [(BOB, "a.b.c/1", None, "3k")]

    async def paths(did: str, *intervals: Interval) -> list[str]:
        found = await records.read_intervals(connection, [(did, one) for one in intervals])
        return sorted(path for _, path, _, _ in found)

    async with database.transaction() as connection:
        await records.write(connection, rows)
        assert await paths(ALICE, Interval("", None)) == list(PATHS)
        assert await paths(ALICE, interval_of("a.b.c")) == list(PATHS[:5])
        assert await paths(ALICE, interval_of("a.b.*")) == list(PATHS)
        assert await paths(ALICE, Interval("a.b.c/1", "a.b.c/a")) == list(PATHS[1:4])
        # As chunks are cut: behind a path, and through a path.
        assert await paths(ALICE, Interval("a.b.c/1\0", "a.b.c/B\0")) == list(PATHS[2:4])
        assert await paths(ALICE, Interval("", "a.b.c/1"), Interval("a.b.d/", None)) == [
            PATHS[0],
            PATHS[6],
        ]
        assert await records.read_intervals(
            connection, [(BOB, Interval("", None)), ("did:plc:unknown", Interval("", None))]
        ) == [rows[-1]]
