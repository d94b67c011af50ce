"""Snapshots and proofs on real Kafka and PostgreSQL, from chive.backfill to events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from psycopg.rows import dict_row

from consumer.backfill import Chunk
from consumer.errors import Transient
from consumer.scope import Scope
from consumer.state.inputs import AccountLearnt
from consumer.store import database as sessions
from consumer.store.database import Connection
from consumer.store.errors import CommitUnknown
from consumer.store.operations.rows import COLUMNS, of_row
from consumer.verify.verified import Action
from consumer.worker import transaction
from consumer.worker.transaction import BatchTransactions
from procedures.operations import Operation
from procedures.syntax import cid_text
from simulator.frames import account_frame, commit_frame
from simulator.network import Network
from simulator.repo import Repo, Write
from tests.support.eventually import eventually
from tests.support.snapshots import chunks_of, prove
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

COLLECTION = "pub.chive.eprint.submission"
RECORDS = 30
BEGUN = """
INSERT INTO operations (id, type, did, uri, lane, automatic, status, phase, attempts, started_at)
VALUES (%s, %s, %s, %s, 0, %s, 'running', 'injected', 1, now())
"""


@dataclass
class Stage:
    """One tracked repository, active, with its records in the index; the worker is running."""

    harness: WorkerHarness
    network: Network
    repo: Repo

    @property
    def did(self) -> str:
        return self.repo.account.did

    @property
    def scope(self) -> Scope:
        return Scope(self.harness.settings.scope.collections)

    async def execute(self, statement: str, *values: object) -> None:
        async with self.harness.database.transaction() as connection:
            await connection.execute(statement, list(values))

    async def begin(self, *, automatic: bool = False, path: str | None = None) -> str:
        """Have an operation that was fetched and injected, in its first attempt."""
        kind = "didSync" if path is None else "recordRefresh"
        uri = None if path is None else f"at://{self.did}/{path}"
        name = f"{kind}-{len(await self.operations())}"
        await self.execute(BEGUN, name, kind, self.did, uri, automatic)
        return name

    async def tell(self, chunks: Sequence[Chunk]) -> None:
        await self.harness.tell(*chunks)
        await self.harness.settled(20.0)

    async def write(self, *writes: Write, heard: bool = True) -> None:
        """Commit to the repository; a commit that is not ``heard`` leaves a broken chain."""
        commit = self.repo.commit(writes)
        self.network.seq += 1
        if heard:
            await self.harness.publish([commit_frame(self.network.seq, commit)])
            await self.harness.settled(20.0)

    async def operations(self) -> dict[str, Operation]:
        async with self.harness.database.transaction() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(f"SELECT {COLUMNS} FROM operations")  # noqa: S608
            return {row["id"]: of_row(row) for row in await cursor.fetchall()}

    async def queued(self) -> list[Operation]:
        return [one for one in (await self.operations()).values() if one.status == "queued"]

    async def state(self) -> tuple[str, str | None]:
        _, state, reason = (await self.harness.repos())[self.did]
        return state, reason

    async def changes(self) -> list[dict[str, Any]]:
        """Return the record events that no firehose brought."""
        events = await self.harness.events()
        return [e for e in events if e["type"] == "record" and not e["live"]]

    def truth(self) -> dict[str, str]:
        return {path: cid_text(cid) for path, (_, cid) in self.repo.records.items()}

    async def agrees(self) -> None:
        """Rows, and the fold of the events, are the repository; no event came twice."""
        assert (await self.harness.stored()).get(self.did, {}) == self.truth()
        assert (await self.harness.folded()).get(self.did, {}) == self.truth()
        events = await self.harness.events()
        assert len({event["id"] for event in events}) == len(events)


@pytest.fixture
async def stage(harness: WorkerHarness) -> Any:
    network = Network(11, accounts=1, collections=(COLLECTION,))
    harness.keys = network.keys
    [repo] = network.repos.values()
    async with harness.fetching(), harness.owning(repo.account.did):
        await harness.publish(network.introduce(RECORDS))
        await harness.settled(20.0)
        yield Stage(harness, network, repo)


def create(name: str) -> Write:
    return Write("create", f"{COLLECTION}/{name}", {"name": name})


async def test_a_sync_makes_exactly_the_difference(stage: Stage) -> None:
    missing, stale, *_ = paths = sorted(stage.repo.records)
    other, extra = stage.repo.records[paths[5]][1], f"{COLLECTION}/zzz"
    before = stage.repo.rev
    await stage.execute("DELETE FROM records WHERE path = %s", missing)
    await stage.execute("UPDATE records SET cid = %s WHERE path = %s", other, stale)
    await stage.execute("INSERT INTO records VALUES (%s, %s, %s, %s)", stage.did, extra, other, "2")
    sync = await stage.begin()
    await stage.execute("UPDATE operations SET total_records = %s", RECORDS)
    first, *others = chunks_of(stage.repo, stage.scope, sync)
    await stage.tell([first])
    running = (await stage.operations())[sync]
    assert (running.status, running.records_processed, running.progress) == ("running", 10, 66)
    await stage.tell(others)
    told = await stage.changes()
    assert [(e["action"], f"{e['collection']}/{e['rkey']}", e["prev"]) for e in told] == [
        ("create", missing, None),
        ("update", stale, cid_text(other)),
        ("delete", extra, cid_text(other)),
    ]
    assert {(e["rev"], e["source"], e["operationId"]) for e in told} == {(before, "backfill", sync)}
    assert (await stage.harness.stored())[stage.did] == stage.truth()
    done = (await stage.operations())[sync]
    assert (done.status, done.phase, done.progress) == ("completed", "applied", 100)
    assert (done.created, done.updated, done.deleted) == (1, 1, 1)
    assert (done.records_processed, done.completed_at is None) == (RECORDS, False)
    assert await stage.harness.dead_letters() == []


async def test_a_snapshot_taken_again_changes_nothing(stage: Stage, harness: WorkerHarness) -> None:
    await stage.write(create("a"), heard=False)
    await stage.write(create("b"))
    sync = await stage.begin()
    await stage.tell(chunks_of(stage.repo, stage.scope, sync))
    await stage.agrees()
    events, done = await harness.events(), (await stage.operations())[sync]
    await stage.tell(chunks_of(stage.repo, stage.scope, sync))
    assert await harness.events() == events
    again = (await stage.operations())[sync]
    assert (again.status, again.created, again.completed_at) == (
        done.status,
        1,
        done.completed_at,
    )


@pytest.mark.parametrize("happened", [True, False], ids=["answer lost", "rolled back"])
async def test_a_batch_that_breaks_is_done_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, happened: bool
) -> None:
    commit, broken = sessions._commit, 0

    async def unreliable(connection: Connection, bound: float) -> None:
        nonlocal broken
        applied = await connection.execute("SELECT FROM operations WHERE created > 0")
        if broken or not applied.rowcount:
            await commit(connection, bound)
            return
        broken += 1
        if happened:
            await commit(connection, bound)
        else:
            await connection.rollback()
        raise CommitUnknown("no answer")

    await stage.write(create("a"), heard=False)
    await stage.write(create("b"))
    sync = await stage.begin()
    monkeypatch.setattr(sessions, "_commit", unreliable)
    await stage.tell(chunks_of(stage.repo, stage.scope, sync))
    assert broken == 1
    await stage.agrees()
    done = (await stage.operations())[sync]
    assert (done.status, done.created) == ("completed", 1)


async def test_live_commits_between_the_chunks_win(stage: Stage) -> None:
    paths = sorted(stage.repo.records)
    await stage.write(Write("delete", paths[0]), create("a"), heard=False)
    await stage.write(create("b"))
    assert await stage.state() == ("desynchronized", "broken_chain")
    sync = await stage.begin()
    first, *others, last = chunks_of(stage.repo, stage.scope, sync)
    await stage.tell([first])
    await stage.write(
        Write("update", paths[1], {"name": "newer"}),
        Write("update", paths[-1], {"name": "newer"}),
        Write("delete", paths[-2]),
        create("c"),
    )
    await stage.tell(others)
    await stage.write(Write("delete", paths[2]), Write("delete", paths[-1]))
    await stage.tell([last])
    assert await stage.state() == ("active", None)
    await stage.agrees()
    done = (await stage.operations())[sync]
    assert (done.status, done.created, done.updated, done.deleted) == ("completed", 1, 0, 1)
    assert await stage.queued() == [], "the automatic sync of the broken chain is moot"


async def test_chunks_of_an_attempt_that_was_given_up_do_no_harm(stage: Stage) -> None:
    await stage.write(create("a"), heard=False)
    await stage.write(create("b"))
    sync = await stage.begin()
    early = chunks_of(stage.repo, stage.scope, sync)
    await stage.tell(early[:2])
    await stage.write(Write("delete", sorted(stage.repo.records)[3]), heard=False)
    await stage.write(create("c"))
    await stage.execute("UPDATE operations SET attempts = 2 WHERE id = %s", sync)
    late = chunks_of(stage.repo, stage.scope, sync, 2)
    await stage.tell([late[0], early[2], *late[1:-1], early[3]])
    assert (await stage.operations())[sync].status == "running"
    await stage.tell(late[-1:])
    assert await stage.state() == ("active", None)
    await stage.agrees()
    done = (await stage.operations())[sync]
    assert (done.status, done.created, done.deleted) == ("completed", 1, 1)


async def test_a_snapshot_from_before_what_is_missing_is_fetched_again(stage: Stage) -> None:
    old = chunks_of(stage.repo, stage.scope, await stage.begin(automatic=True))
    [sync] = await stage.operations()
    await stage.write(create("a"), heard=False)
    await stage.write(create("b"))
    [automatic] = await stage.queued()
    await stage.execute(
        "INSERT INTO operations (id, type, did, lane, automatic, same_as)"
        " VALUES ('asked', 'didSync', %s, 0, false, %s)",
        stage.did,
        automatic.id,
    )
    await stage.tell(old)
    after = await stage.operations()
    assert (after[sync].status, after[sync].failure) == ("queued", "OlderThanKnown")
    assert after[automatic.id].status == "cancelled", "one automatic sync is queued at a time"
    assert (after["asked"].status, after["asked"].same_as) == ("queued", sync)
    assert await stage.state() == ("desynchronized", "broken_chain")
    await stage.execute(
        "UPDATE operations SET status = 'running', attempts = 2 WHERE id = %s", sync
    )
    await stage.tell(chunks_of(stage.repo, stage.scope, sync, 2))
    await stage.agrees()
    after = await stage.operations()
    assert {after[sync].status, after["asked"].status} == {"completed"}
    assert after["asked"].created == 1


async def test_a_sync_of_an_inactive_account_fails_and_changes_nothing(stage: Stage) -> None:
    await stage.write(create("a"), heard=False)
    await stage.write(create("b"))
    seq, did = stage.network.seq + 1, stage.did
    time = stage.network.time
    await stage.harness.publish(
        [account_frame(seq, did, active=False, status="suspended", time=time)]
    )
    await stage.harness.settled(20.0)
    sync = await stage.begin()
    await stage.tell(chunks_of(stage.repo, stage.scope, sync))
    done = (await stage.operations())[sync]
    assert (done.status, done.failure) == ("failed", "AccountInactive")
    assert await stage.changes() == []


async def test_everything_is_published_again_on_request(stage: Stage) -> None:
    sync = await stage.begin()
    await stage.tell(chunks_of(stage.repo, stage.scope, sync, emit_all=True))
    told = await stage.changes()
    assert {f"{e['collection']}/{e['rkey']}": e["cid"] for e in told} == stage.truth()
    assert {e["action"] for e in told} == {Action.UPDATE}
    assert all(e["prev"] == e["cid"] and e["record"] for e in told)
    again = await stage.begin()
    await stage.tell(chunks_of(stage.repo, stage.scope, again, emit_all=True))
    assert len(await stage.changes()) == 2 * RECORDS
    await stage.agrees()
    done = (await stage.operations())[sync]
    assert (done.status, done.created, done.updated, done.deleted) == ("completed", 0, 0, 0)


async def test_an_unknown_repository_becomes_known_by_its_snapshot(harness: WorkerHarness) -> None:
    network = Network(12, accounts=1, collections=(COLLECTION,))
    harness.keys = network.keys
    [repo] = network.repos.values()
    list(network.introduce(RECORDS))
    stage = Stage(harness, network, repo)
    async with harness.fetching(), harness.owning(stage.did):
        sync = await stage.begin()
        await stage.tell(chunks_of(repo, stage.scope, sync, size=7))
        assert await stage.state() == ("active", None)
        assert (await stage.operations())[sync].created == RECORDS
        assert await stage.queued() == []
        await stage.write(create("a"), Write("delete", min(repo.records)))
        await stage.agrees()


async def test_refreshes(stage: Stage) -> None:
    kept, lost, gone = sorted(stage.repo.records)[:3]
    other = stage.repo.records[kept][1]
    before = stage.repo.rev
    await stage.write(Write("delete", gone), create("a"), heard=False)
    await stage.write(create("b"))
    await stage.execute("DELETE FROM records WHERE path = %s", lost)

    async def refresh(path: str, rev: str | None = None) -> Operation:
        name = await stage.begin(path=path)
        await stage.harness.tell(prove(stage.repo, path, name, rev=rev))
        await stage.harness.settled(20.0)
        return (await stage.operations())[name]

    same = await refresh(kept)
    assert (same.status, same.new_cid, same.updated) == ("completed", cid_text(other), 0)
    found = await refresh(lost)
    assert (found.new_cid, found.created) == (stage.truth()[lost], 1)
    absent = await refresh(gone)
    assert (absent.status, absent.new_cid, absent.deleted) == ("completed", None, 1)
    stale = await refresh(kept, before)
    assert (stale.status, stale.failure, stale.attempts) == ("queued", "OlderThanKnown", 1)
    told = await stage.changes()
    assert [(e["action"], e["source"], e["operationId"]) for e in told] == [
        ("create", "refresh", found.id),
        ("delete", "refresh", absent.id),
    ]
    assert await stage.state() == ("desynchronized", "broken_chain")


async def test_a_large_account_is_deleted_in_portions_across_a_restart(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    portions, delete_batch = [], BatchTransactions._delete_batch

    async def interrupted(transactions: BatchTransactions, learnt: AccountLearnt) -> bool:
        more = await delete_batch(transactions, learnt)
        portions.append(more)
        if len(portions) == 2:
            raise Transient("as if PostgreSQL had gone away")
        return more

    monkeypatch.setattr(transaction, "_DELETED", RECORDS // 4)
    monkeypatch.setattr(BatchTransactions, "_delete_batch", interrupted)
    stage.network.seq += 1
    gone = account_frame(stage.network.seq, stage.did, active=False, status="deleted")
    await stage.harness.publish([gone])

    async def deleted() -> bool:
        return (await stage.harness.repos())[stage.did][0] == "deleted"

    await eventually(deleted, what="the account is deleted", deadline=60)
    await stage.harness.settled(20.0)
    assert (portions[:3], portions[-1]) == ([True, True, True], False)
    assert (await stage.harness.stored(), await stage.harness.folded()) == ({}, {})
    events = await stage.harness.events()
    assert len({event["id"] for event in events}) == len(events)
    deletes = [e for e in events if e["type"] == "record" and e["action"] == "delete"]
    assert len(deletes) == len(stage.repo.records)


async def test_an_account_that_returns_in_the_middle_of_its_deletion_is_restored(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete_batch = BatchTransactions._delete_batch
    interruptions: list[int] = []

    async def interrupted(transactions: BatchTransactions, learnt: AccountLearnt) -> bool:
        more = await delete_batch(transactions, learnt)
        if more and not interruptions:
            stage.network.seq += 1
            back = account_frame(stage.network.seq, stage.did, active=True)
            interruptions.append(await stage.harness.publish([back]))
            raise Transient("as if PostgreSQL had gone away")
        return more

    monkeypatch.setattr(transaction, "_DELETED", RECORDS // 4)
    monkeypatch.setattr(BatchTransactions, "_delete_batch", interrupted)
    before = stage.repo.rev
    stage.network.seq += 1
    gone = account_frame(stage.network.seq, stage.did, active=False, status="deleted")
    await stage.harness.publish([gone])

    async def emptied() -> bool:
        return bool(interruptions) and (await stage.state())[0] == "desynchronized"

    await eventually(emptied, what="records go, and the account returns", deadline=60)
    await stage.harness.settled(20.0)
    assert (await stage.harness.repos())[stage.did] == ("active", "desynchronized", "reactivated")
    assert len((await stage.harness.stored()).get(stage.did, {})) < len(stage.repo.records)

    assert stage.repo.rev == before
    rows = await stage.harness.rows("SELECT want FROM repos")
    ((want,),) = rows
    await stage.tell(
        chunks_of(stage.repo, stage.scope, await stage.begin(), resync_generation=want)
    )
    assert await stage.state() == ("active", None)
    await stage.agrees()
