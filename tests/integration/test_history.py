"""Pages of operations, from PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.store.database import Database
from consumer.store.operations import write
from consumer.store.operations.history import Changes, History
from procedures import transitions
from procedures.client import Query
from procedures.operations import FINAL, Operation, Type, queued

pytestmark = pytest.mark.services

ALICE, BOB = "did:plc:alice", "did:plc:bob"


def _ended(identifier: str, did: str, at: float, *, parent: str | None = None) -> Operation:
    return transitions.cancel(queued(identifier, Type.DID_SYNC, did, at, parent=parent), at)


async def test_pages_of_what_people_asked_for_and_of_all(database: Database) -> None:
    automatic = replace(_ended("a2", ALICE, 2.0), automatic=True)
    kept = [
        _ended("a1", ALICE, 1.0),
        automatic,
        _ended("b3", BOB, 3.0),
        _ended("c4", ALICE, 4.0, parent="many"),
        _ended("b5", BOB, 5.0),
        queued("b6", Type.DID_SYNC, BOB, 6.0),
    ]
    async with database.transaction() as connection:
        for operation in kept:
            await write.insert(connection, operation, 0)
    history = History(database, Changes(database))

    async def pages(query: Query) -> list[list[str]]:
        found = []
        while True:
            page = await history.page(query)
            found.append([one.id for one in page.operations])
            if page.cursor is None:
                return found
            query = replace(query, cursor=page.cursor)

    assert await pages(Query(FINAL, limit=2)) == [["b5", "b3"], ["a2", "a1"]]
    assert await pages(Query(FINAL, limit=2, automatic=False)) == [["b5", "b3"], ["a1"]]
    assert await pages(Query(FINAL, ALICE)) == [["c4", "a2", "a1"]]
    assert await pages(Query(FINAL, ALICE, limit=1, automatic=False)) == [["c4"], ["a1"]]
    assert await pages(Query(FINAL, parent="many")) == [["c4"]]
