"""What becomes of a command before anything is carried out; the tables are faked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from consumer.control import commands
from consumer.kafka.topics import Topics
from consumer.scope import History, Scope
from consumer.shard import Shard, shard_of
from consumer.store.database import Connection
from consumer.store.operations import read, write
from procedures.failures import Failure
from procedures.messages import (
    Command,
    DidSync,
    Discover,
    Emit,
    Forget,
    RecordRefresh,
    RefusalReason,
    RegisterHost,
    is_record_uri,
)
from procedures.operations import Operation, Status
from procedures.retries import RetryPolicy

PATH = "pub.chive.eprint.submission/" + "r" * 512


@pytest.fixture
def inserted(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """Give the operations that were inserted, where there are no others."""
    found: list[Operation] = []

    async def nothing(*_: Any) -> None:
        return None

    async def none(*_: Any) -> dict[str, Any]:
        return {}

    async def insert_all(
        _connection: Connection, new: Sequence[Operation], _lanes: Sequence[int]
    ) -> None:
        found.extend(new)

    async def insert(connection: Connection, new: Operation, lane: int) -> None:
        await insert_all(connection, [new], [lane])

    monkeypatch.setattr(read, "read", nothing)
    monkeypatch.setattr(read, "read_all", none)
    monkeypatch.setattr(read, "open_of_all", none)
    monkeypatch.setattr(write, "save", nothing)
    monkeypatch.setattr(write, "insert", insert)
    monkeypatch.setattr(write, "insert_all", insert_all)
    return found


@pytest.mark.parametrize(
    ("did", "status", "failure"),
    [
        ("did:web:" + "a" * 253, Status.QUEUED, None),
        ("did:web:" + "a" * 2_040, Status.FAILED, Failure.DID_METHOD),
    ],
    ids=["the longest did:web", "the longest DID"],
)
async def test_a_refresh_that_the_tables_cannot_index_fails_at_once(
    inserted: list[Operation], did: str, status: Status, failure: Failure | None
) -> None:
    uri = f"at://{did}/{PATH}"
    assert is_record_uri(uri)
    refresh = RecordRefresh(id="one", uri=uri, requested_at=0.0)
    nowhere, scope = cast("Connection", None), Scope(("pub.chive.*",))
    topics = Topics("t.", 4)
    assert await commands.carry_out(nowhere, [refresh], topics, scope, RetryPolicy(), 1.0) == [None]
    assert [(one.status, one.failure) for one in inserted] == [(status, failure)]
    assert inserted[0].status is Status.FAILED or len(uri) < 2_704


@pytest.mark.parametrize(
    "command",
    [Discover(id="one", requested_at=0.0), RegisterHost(id="one", host="a.b", requested_at=0.0)],
)
@pytest.mark.parametrize(
    ("history", "status"), [(History.FULL, Status.QUEUED), (History.LIVE, Status.FAILED)]
)
async def test_a_search_fails_at_once_where_nothing_is_searched(
    inserted: list[Operation], command: Discover | RegisterHost, history: History, status: Status
) -> None:
    nowhere, scope = cast("Connection", None), Scope(("pub.chive.*",), history=history)
    topics = Topics("t.", 4)
    assert await commands.carry_out(nowhere, [command], topics, scope, RetryPolicy(), 1.0) == [None]
    (operation,) = inserted
    assert (operation.status, operation.reason) == (status, command.subject)
    assert operation.failure == (Failure.OUT_OF_SCOPE if status is Status.FAILED else None)


@pytest.mark.parametrize("here", [True, False])
async def test_work_for_an_account_of_another_shard_fails_and_says_who_has_it(
    inserted: list[Operation], *, here: bool
) -> None:
    did = "did:plc:alice"
    home = Shard(shard_of(did, 2), 2)
    scope = Scope(("pub.chive.*",), shard=home if here else Shard(3 - home.number, 2))
    nowhere = cast("Connection", None)
    for command in (
        DidSync(id="one", did=did, requested_at=0.0),
        Forget(id="two", did=did, requested_at=0.0),
        RecordRefresh(id="three", uri=f"at://{did}/{PATH}", requested_at=0.0),
    ):
        args = (nowhere, [command], Topics("t.", 4), scope, RetryPolicy(), 1.0)
        assert await commands.carry_out(*args) == [None]
    assert {one.failure for one in inserted} == {None if here else Failure.OTHER_SHARD}
    assert all(here or f"shard {home}" in (one.error or "") for one in inserted)


async def test_commands_that_come_together_count_for_those_behind_them(
    inserted: list[Operation],
) -> None:
    nowhere, scope, topics = cast("Connection", None), Scope(("pub.chive.*",)), Topics("t.", 4)
    one, other = (f"did:plc:{letter * 24}" for letter in "ab")
    asked: list[Command] = [
        DidSync(id="1", did=one, requested_at=1.0),
        DidSync(id="2", did=other, requested_at=2.0),
        DidSync(id="1", did=one, requested_at=1.0),  # again
        DidSync(id="2", did=one, requested_at=2.0),
        DidSync(id="3", did=one, requested_at=3.0),
        Discover(id="4", requested_at=4.0),
        DidSync(id="5", did=other, requested_at=5.0, emit=Emit.ALL),
    ]
    refusals = await commands.carry_out(nowhere, asked, topics, scope, RetryPolicy(), 9.0)
    assert [one.reason if one else None for one in refusals] == [
        *[None] * 3,
        RefusalReason.ID_TAKEN,
        *[None] * 3,
    ]
    assert [(each.id, each.did, each.same_as) for each in inserted] == [
        ("1", one, None),
        ("2", other, None),
        ("3", one, "1"),
        ("4", None, None),
        ("5", other, None),  # the tables, which are faked, know nothing of 2
    ]
