"""The store on a real PostgreSQL: every repository goes out and comes back."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from uuid import UUID, uuid4

import psycopg
import pytest

from consumer.config.settings import PostgresSettings
from consumer.errors import Fatal, Transient
from consumer.state.effects import SyncReason, SyncRequest
from consumer.state.repo_state import Repo
from consumer.store import deployment as noted
from consumer.store import (
    identities,
    lanes,
    lookups,
    outbox,
    parked,
    records,
    repos,
    routes,
    schema,
    status,
)
from consumer.store.database import Database
from consumer.store.errors import CommitUnknown
from consumer.store.operations import queue, read, write
from consumer.store.rows import (
    Identity,
    LookupRequest,
    OutRow,
    ParkedFrame,
    Parking,
    Record,
)
from procedures.retries import RetryPolicy
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

pytestmark = pytest.mark.services

ALICE, BOB = "did:plc:alice", "did:plc:bob"
THROTTLE = RetryPolicy().throttle


# -- sessions, migrations, deployment ---------------------------------------------------------


async def test_many_processes_may_open_fresh_tables_at_once(
    deployment: Deployment,
) -> None:
    databases = [Database(deployment.postgres(), deployment.prefix) for _ in range(4)]
    await asyncio.gather(*(database.open() for database in databases))
    async with databases[0].transaction() as connection:
        rows = await (await connection.execute("SELECT version FROM schema_versions")).fetchall()
    assert [version for (version,) in rows] == [m.version for m in schema.migrations()]
    await asyncio.gather(*(database.close() for database in databases))


async def test_newer_tables_are_refused(database: Database, deployment: Deployment) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO schema_versions VALUES (9999, 'future')")
    with pytest.raises(Fatal, match="9999"):
        await Database(deployment.postgres(), deployment.prefix).open()


async def test_another_cluster_prefix_or_partition_count_is_refused(database: Database) -> None:
    mine = noted.Deployment("cluster", "chive.", 8)
    async with database.transaction() as connection:
        await noted.check(connection, mine)
        await noted.check(connection, mine)
        assert await noted.read(connection) == mine
        for other in (
            replace(mine, cluster_id="another"),
            replace(mine, prefix="test."),
            replace(mine, partitions=4),
        ):
            with pytest.raises(Fatal, match="another deployment"):
                await noted.check(connection, other)


async def test_routes_that_change_before_anything_was_published_lack_nothing(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        assert await routes.note(connection, {}) is None
        assert await routes.note(connection, {"a.b.*": "x"}) is None
        lane = "INSERT INTO lanes (lane, token, last_out_seq) VALUES (0, %s, 1)"
        await connection.execute(lane, [uuid4()])
        assert await routes.note(connection, {"a.b.*": "x"}) is None
        assert await routes.note(connection, {"a.b.*": "y"}) is not None


async def test_a_session_is_bounded(database: Database) -> None:
    async with database.transaction() as connection:
        for setting in ("idle_in_transaction_session_timeout", "transaction_timeout"):
            row = await (await connection.execute(f"SHOW {setting}")).fetchone()
            assert row == ("1min",)


async def test_what_raises_rolls_back(database: Database) -> None:
    async def fails() -> None:
        async with database.transaction() as connection:
            await status.mirror_cursor(connection, "wss://relay", 1, None, 1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fails()
    async with database.transaction() as connection:
        assert (await status.read(connection)).cursors == []


async def test_a_transaction_with_a_suppressed_error_is_not_committed(
    database: Database,
) -> None:
    async def passes_over() -> None:
        async with database.transaction() as connection:
            with contextlib.suppress(psycopg.Error):
                await connection.execute("SELECT nonsense")

    with pytest.raises(Fatal, match="after a failed statement"):
        await passes_over()


async def test_a_lost_connection_is_transient_and_the_next_one_works(database: Database) -> None:
    with pytest.raises(Transient) as raised:
        async with database.transaction() as connection:
            await _terminate(connection)
    assert not isinstance(raised.value, CommitUnknown)
    await database.ping()


async def test_a_commit_without_an_answer_is_unknown(database: Database) -> None:
    async def breaks() -> None:
        async with database.transaction() as connection:
            await connection.execute("SELECT 1")
            # The transport breaks after the last statement and before COMMIT is answered.
            connection.pgconn.finish()

    with pytest.raises(CommitUnknown):
        await breaks()
    await database.ping()


async def test_an_unreachable_server_is_transient() -> None:
    settings = PostgresSettings.model_validate({"dsn": "postgresql://user@127.0.0.1:1/nothing"})
    with pytest.raises(Transient):
        await Database(settings, "nowhere.").open()


async def test_a_notification_wakes_who_listens(database: Database) -> None:
    async with database.listening(lookups.CHANNEL) as listener:
        assert not await listener.wait(0.01)
        async with database.transaction() as connection:
            await lookups.request(connection, [LookupRequest(ALICE, "identity", 0)])
        assert await listener.wait(10.0)


async def _terminate(connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
    await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


# -- repositories of named SQL ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RepoRow:
    did: str
    lane: int
    sync_state: str
    resync_generation: int = 0
    complete: bool = False
    rev: str | None = None
    data: bytes | None = None
    snapshot_attempt: int | None = None


async def test_repos_round_trip(database: Database) -> None:
    table = repos.Repos(RepoRow)
    full = RepoRow(ALICE, 3, "active", 7, True, "3k", b"\x01", 2)
    bare = RepoRow(BOB, 3, "desynchronized")
    async with database.transaction() as connection:
        await table.write(connection, [full, bare])
        await table.write(connection, [replace(full, resync_generation=8)])
        assert sorted(await table.read(connection, [ALICE, BOB, "did:plc:unknown"]), key=str) == [
            replace(full, resync_generation=8),
            bare,
        ]
        assert await table.page(connection, 3, "", 1) == [replace(full, resync_generation=8)]
        assert await table.page(connection, 3, ALICE, 5) == [bare]
        assert await table.page(connection, 4, "", 5) == []
        assert await repos.known(connection, [BOB, "did:plc:unknown"]) == {BOB}
        assert await repos.dids(connection, "", 5) == sorted([ALICE, BOB])
        assert await repos.dids(connection, "", 1) == [min(ALICE, BOB)]
        assert await repos.dids(connection, min(ALICE, BOB), 5) == [max(ALICE, BOB)]


async def test_a_repo_row_must_have_columns() -> None:
    @dataclass
    class Strange:
        did: str
        colour: str

    with pytest.raises(Fatal, match="colour"):
        repos.Repos(Strange)


async def test_the_epoch_is_stored_in_columns_named_session(database: Database) -> None:
    async with database.transaction() as connection:
        await repos.Repos(Repo).write(connection, [Repo(ALICE, 3, status_epoch=4)])
        [repo] = await repos.Repos(Repo).read(connection, [ALICE])
        await parked.append(connection, 3, [ParkedFrame(ALICE, 1, 2, 3, 5, "wss://r", b"f")])
        await lookups.request(connection, [LookupRequest(ALICE, "account", 3, epoch=6, seq=9)])
        await status.mirror_cursor(connection, "wss://r", 9, None, 7)
        await lanes.create(connection, 3)
        new = await lanes.read(connection, 3)
        assert new is not None
        assert await lanes.advance(connection, [new], [replace(new, epoch=8)])
        stored = await connection.execute(
            "SELECT (SELECT status_session FROM repos), (SELECT session FROM parked),"
            " (SELECT session FROM lookups), (SELECT session FROM cursors),"
            " (SELECT session FROM lanes)"
        )
        assert await stored.fetchone() == (4, 5, 6, 7, 8)
        lane = await lanes.read(connection, 3)
    assert repo.status_epoch == 4
    assert lane is not None
    assert lane.epoch == 8


async def test_records_round_trip(database: Database) -> None:
    rows: list[Record] = [
        (ALICE, "a.b.c/1", b"cid1", "3k"),
        (ALICE, "a.b.c/2", None, "3k"),
        (BOB, "a.b.c/1", b"cid2", "3j"),
    ]
    async with database.transaction() as connection:
        await records.write(connection, rows)
        keys = [(did, path) for did, path, _, _ in rows]
        found = await records.read(connection, [*keys[1:], (BOB, "a.b.c/none")])
        assert sorted(found) == rows[1:]
        await records.write(connection, [(ALICE, "a.b.c/2", b"cid3", "3l")])
        assert sorted(await records.read_repos(connection, [ALICE])) == [
            rows[0],
            (ALICE, "a.b.c/2", b"cid3", "3l"),
        ]
        await records.delete(connection, [keys[0]])
        assert await records.read(connection, [keys[0]]) == []


async def test_the_newest_identity_stays(database: Database) -> None:
    known = Identity(ALICE, "did:key:z1", "https://pds", "alice.test", None, 1000.25)
    older = Identity(ALICE, "did:key:z0", None, None, None, 999.0)
    refused = Identity(BOB, None, None, None, "no such DID", 1.0)
    async with database.transaction() as connection:
        await identities.write(connection, [known, refused])
        await identities.write(connection, [older])
        assert sorted(await identities.read(connection, [ALICE, BOB]), key=str) == [known, refused]


STAMPS = [uuid4() for _ in range(3)]


async def test_the_outbox_is_read_in_order_and_bounded(database: Database) -> None:
    headers = (("reason", b"x"), ("offset", b"1"))
    rows = [OutRow(n, "events", 0, b"key", headers, b"v" * n, STAMPS[0]) for n in range(1, 8)]
    more = [OutRow(n, "events", 0, b"key", headers, b"v" * n, STAMPS[1]) for n in range(8, 11)]
    tombstone = OutRow(11, "events", 3, None, (), None, STAMPS[1])
    async with database.transaction() as connection:
        await outbox.append(connection, {1: rows})
        await outbox.append(connection, {1: [*more, tombstone]})
        await outbox.append(connection, {2: [rows[0]]})
        assert await outbox.read(connection, 1, 3, max_rows=3, max_bytes=1000) == rows[3:6]
        assert await outbox.read(connection, 1, 5, max_rows=99, max_bytes=1000) == [
            *rows[5:],
            *more,
            tombstone,
        ]
        assert await outbox.read(connection, 1, 9, max_rows=9, max_bytes=1000) == [
            more[2],
            tombstone,
        ]
        # 1 + 2 + 3 bytes are read before the bound of 5 is passed; the first always comes.
        assert await outbox.read(connection, 1, 0, max_rows=9, max_bytes=5) == rows[:3]
        assert await outbox.read(connection, 1, 9, max_rows=9, max_bytes=1) == more[2:3]


async def test_the_newest_published_batch_leaves_its_stamp(database: Database) -> None:
    def batch(first: int, count: int, stamp: UUID) -> list[OutRow]:
        return [OutRow(first + n, "events", 0, b"k", (), b"v", stamp) for n in range(count)]

    async def knows(out_seq: int) -> tuple[UUID | None, int]:
        found = await outbox.knowledge(connection, 1, out_seq)
        return found.stamp, found.trimmed

    async with database.transaction() as connection:
        await outbox.append(connection, {1: batch(1, 3, STAMPS[0])})
        await outbox.append(connection, {1: batch(4, 3, STAMPS[1])})
        assert await knows(2) == (STAMPS[0], 0)
        await outbox.trim(connection, {1: 2})  # in the middle of a batch
        assert await outbox.depth(connection) == {1: 6}
        assert await knows(2) == (STAMPS[0], 0)
        await outbox.trim(connection, {1: 3})
        assert await outbox.depth(connection) == {1: 3}
        assert await knows(3) == (STAMPS[0], 3)
        assert await outbox.read(connection, 1, 0, max_rows=9, max_bytes=9) == batch(
            4, 3, STAMPS[1]
        )
        await outbox.trim(connection, {1: 6})
        assert await outbox.depth(connection) == {}
        assert await knows(3) == await knows(6) == (STAMPS[1], 6)
        assert await knows(7) == (None, 6)


async def test_rows_of_earlier_versions_become_batches(database: Database) -> None:
    insert = "INSERT INTO outbox (lane, out_seq, topic, partition, key, headers, value) VALUES "
    async with database.transaction() as connection:
        await connection.execute(
            insert + "(1, 1, 'events', 2, 'k', '{}', 'published'), "
            "(1, 2, 'events', 2, 'k', ARRAY['reason', 'x']::bytea[], NULL), "
            "(1, 3, 'events', 2, NULL, '{}', 'v'), (2, 1, 'events', 2, NULL, '{}', 'v')"
        )
        await outbox.adopt_earlier(connection, 1, 1)
        assert await outbox.depth(connection) == {1: 2}
        assert await outbox.read(connection, 1, 1, max_rows=9, max_bytes=99) == [
            OutRow(2, "events", 2, b"k", (("reason", b"x"),), None),
            OutRow(3, "events", 2, None, (), b"v"),
        ]
        await outbox.adopt_earlier(connection, 1, 1)
        assert await outbox.depth(connection) == {1: 2}


async def test_parked_frames_wait_in_order(database: Database) -> None:
    frames = [ParkedFrame(ALICE, n, 1000 + n, 50 + n, 1, "wss://r", b"f" * n) for n in (7, 8, 9)]
    async with database.transaction() as connection:
        await parked.append(connection, 5, frames)
        waiting = Parking(ALICE, ready=False, frames=3, size=24)
        await parked.write(connection, 5, [waiting])
        assert await parked.read(connection, 5) == [waiting]
        await parked.doubt(connection, 6)
        await parked.write(connection, 5, [replace(waiting, ready=True)])
        assert await parked.read(connection, 5) == [replace(waiting, ready=True)]
        await parked.doubt(connection, 5)
        assert await parked.read(connection, 5) == [replace(waiting, ready=True, doubted=True)]
        assert await parked.read(connection, 6) == []
        both, bobs = [BOB, ALICE], ParkedFrame(BOB, 3, 1003, 53, 1, "wss://r", b"bob")
        await parked.append(connection, 5, [bobs])
        assert await parked.take(connection, both, max_frames=2, max_bytes=100) == frames[:2]
        assert await parked.take(connection, both, max_frames=9, max_bytes=1) == frames[:1]
        assert await parked.take(connection, both, max_frames=9, max_bytes=100) == [*frames, bobs]
        await parked.drop(connection, {ALICE: 8})
        assert await parked.take(connection, [ALICE], max_frames=9, max_bytes=99) == frames[2:]
        await parked.clear(connection, [ALICE])
        assert await parked.read(connection, 5) == []


# -- lookups ---------------------------------------------------------------------------------


async def test_a_question_is_leased_once_and_closed(database: Database) -> None:
    async with database.transaction() as connection:
        await lookups.request(connection, [LookupRequest(ALICE, "identity", 2)])
    async with database.transaction() as connection:
        [lookup] = await lookups.lease(connection, 10, 30.0)
        assert (lookup.did, lookup.kind, lookup.lane, lookup.attempts) == (ALICE, "identity", 2, 0)
        assert await lookups.lease(connection, 10, 30.0) == []
        await lookups.extend(connection, [lookup], 90.0)
        left = "SELECT extract(epoch FROM lease_until - now())::int FROM lookups"
        assert await (await connection.execute(left)).fetchall() == [(90,)]
        await lookups.close(connection, lookup)
        assert await lookups.next_due(connection) is None


async def test_a_question_asked_again_meanwhile_stays_open(database: Database) -> None:
    async with database.transaction() as connection:
        await lookups.request(connection, [LookupRequest(ALICE, "account", 2, epoch=1, seq=5)])
        [taken] = await lookups.lease(connection, 10, 30.0)
        await lookups.request(connection, [LookupRequest(ALICE, "account", 2, epoch=1, seq=9)])
        await lookups.close(connection, taken)
        [again] = await lookups.lease(connection, 10, 30.0)
        assert (again.epoch, again.seq) == (1, 9)


async def test_a_question_that_is_leased_at_the_same_moment_keeps_its_pause(
    database: Database,
) -> None:
    hour = 3_600.0
    request = LookupRequest(ALICE, "account", 2, epoch=1, seq=5, every=hour)

    async def ask_again() -> None:
        async with database.transaction() as connection:
            await lookups.request(connection, [request])

    async with database.transaction() as connection:
        await lookups.request(connection, [request])
    async with database.transaction() as connection:
        [taken] = await lookups.lease(connection, 10, 30.0)
        asking = asyncio.create_task(ask_again())
        await eventually(lambda: _waits_for_a_lock(database), deadline=30)
    await asking
    async with database.transaction() as connection:
        await lookups.close(connection, taken)
        due = await lookups.next_due(connection)
    assert due is not None
    assert due > hour / 2


async def _waits_for_a_lock(database: Database) -> bool:
    async with database.transaction() as connection:
        row = await (
            await connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE wait_event_type = 'Lock' AND query LIKE '%lookups%'"
            )
        ).fetchone()
    return row is not None and row[0] > 0


async def test_a_question_never_goes_back_to_an_older_frame(database: Database) -> None:
    async with database.transaction() as connection:
        for epoch, seq in ((2, 5), (1, 9), (2, 4)):
            question = LookupRequest(ALICE, "account", 0, epoch=epoch, seq=seq)
            await lookups.request(connection, [question])
        [lookup] = await lookups.lease(connection, 1, 30.0)
        assert (lookup.epoch, lookup.seq) == (2, 5)


async def test_a_failed_question_keeps_its_backoff_when_asked_again(database: Database) -> None:
    async with database.transaction() as connection:
        await lookups.request(connection, [LookupRequest(ALICE, "identity", 0)])
        [lookup] = await lookups.lease(connection, 1, 30.0)
        await lookups.postpone(connection, lookup, 600.0, "no route")
        await lookups.request(connection, [LookupRequest(ALICE, "identity", 0)])
        assert await lookups.lease(connection, 1, 30.0) == []
        due = await lookups.next_due(connection)
        assert due is not None
        assert 590 < due <= 600


async def test_an_earlier_wish_brings_a_delayed_question_forward(database: Database) -> None:
    async with database.transaction() as connection:
        await lookups.request(connection, [LookupRequest(ALICE, "identity", 0, delay=600.0)])
        assert await lookups.lease(connection, 1, 30.0) == []
        await lookups.request(connection, [LookupRequest(ALICE, "identity", 0)])
    async with database.transaction() as connection:
        assert len(await lookups.lease(connection, 1, 30.0)) == 1


# -- operations -------------------------------------------------------------------------------


async def test_one_automatic_sync_of_a_did_is_queued_at_a_time(database: Database) -> None:
    async with database.transaction() as connection:
        await queue.add(connection, 4, [SyncRequest(ALICE, SyncReason.BROKEN_CHAIN, 1)], THROTTLE)
        await queue.add(
            connection,
            4,
            [
                SyncRequest(ALICE, SyncReason.LOSS_WINDOW, 2),
                SyncRequest(BOB, SyncReason.LOSS_WINDOW, 1),
            ],
            THROTTLE,
        )
        found = await write.take_unpublished(connection, 10)
        assert sorted((o.did, o.reason, o.status, o.version) for o in found) == [
            (ALICE, "broken_chain", "queued", 1),
            (BOB, "loss_window", "queued", 1),
        ]
        assert await write.take_unpublished(connection, 10) == []


async def test_a_settled_sync_is_published_once_more(database: Database) -> None:
    async with database.transaction() as connection:
        await queue.add(connection, 4, [SyncRequest(ALICE, SyncReason.BROKEN_CHAIN, 1)], THROTTLE)
        await write.take_unpublished(connection, 10)
        await write.settle(connection, [ALICE, BOB])
        [cancelled] = await write.take_unpublished(connection, 10)
        assert (cancelled.status, cancelled.version) == ("cancelled", 2)
        assert await read.by_status(connection) == {"cancelled": 1}
        await queue.add(connection, 4, [SyncRequest(ALICE, SyncReason.BROKEN_CHAIN, 1)], THROTTLE)
        assert await read.by_status(connection) == {"cancelled": 1, "queued": 1}


async def test_status_counts_everything(database: Database) -> None:
    async with database.transaction() as connection:
        await status.mirror_cursor(connection, "wss://relay", 5, None, 1)
        await status.mirror_cursor(connection, "wss://relay", 9, None, 2)
        await repos.Repos(RepoRow).write(connection, [RepoRow(ALICE, 3, "active")])
        await records.write(connection, [(ALICE, "a/1", b"x", "3k"), (ALICE, "a/2", None, "3k")])
        found = await status.read(connection)
    assert [(c.relay, c.seq, c.epoch) for c in found.cursors] == [("wss://relay", 9, 2)]
    assert found.repos == {("active", "active", None): 1}
    assert (found.records, found.parked, found.lookups, found.outbox) == (1, 0, 0, {})
