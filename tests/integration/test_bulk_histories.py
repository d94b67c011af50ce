"""Any history of parents and their children ends with each repository asked for once, and counted.

On a real PostgreSQL, without Kafka: steps that commit or are lost, ends of children of every kind,
cancels of children and parents, syncs that are asked for by themselves meanwhile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.control import bulks, commands
from consumer.kafka.topics import Topics
from consumer.scope import Scope
from consumer.store.database import Connection, Database
from consumer.store.operations import read, write
from procedures import transitions
from procedures.failures import Failure
from procedures.messages import BulkSync, Cancel, Command, DidSync, Emit
from procedures.operations import Operation, Status, Type
from procedures.retries import RetryPolicy
from procedures.selections import By, Selection

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

DIDS = [f"did:web:n{number}.example" for number in range(12)]
PARENTS = ("p", "q")
SELECTED = {"p": set(DIDS), "q": set(DIDS[4:])}
TOPICS, SCOPE, RETRIES = Topics("x.", 4), Scope(("pub.chive.*",)), RetryPolicy()
NOW = 1_900_000_000.0

_PLACES = st.integers(0, 40)
ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.booleans()),
        st.tuples(st.just("complete"), _PLACES),
        st.tuples(st.just("fail"), _PLACES),
        st.tuples(st.just("start"), _PLACES),
        st.tuples(st.just("cancel child"), _PLACES),
        st.tuples(st.just("sync"), st.sampled_from(DIDS)),
        st.tuples(st.just("cancel"), st.sampled_from(PARENTS)),
    ),
    max_size=30,
)


class Histories:
    """One database, and what happens to it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._named = 0

    async def command(self, connection: Connection, command: Command) -> None:
        refused = await commands.carry_out(connection, [command], TOPICS, SCOPE, RETRIES, NOW)
        assert refused == [None], command

    def name(self) -> str:
        self._named += 1
        return f"name {self._named}"

    async def begin(self) -> None:
        async with self._database.transaction() as connection:
            for table in ("operations", "bulks", "repos"):
                await connection.execute(f"DELETE FROM {table}")  # noqa: S608
            for did in DIDS:
                await connection.execute(
                    "INSERT INTO repos (did, lane, sync_state) VALUES (%s, 0, 'active')", [did]
                )
            await self.command(
                connection, BulkSync(id="p", selection=Selection(By.ALL), requested_at=NOW)
            )
            listed = Selection(By.DIDS, dids=tuple(sorted(SELECTED["q"])))
            await self.command(
                connection,
                BulkSync(id="q", selection=listed, emit=Emit.ALL, requested_at=NOW + 1),
            )

    async def take(self, what: str, argument: object) -> None:
        """Let one thing happen."""
        async with self._database.transaction() as connection:
            match what, argument:
                case "step", bool():
                    await bulks.step(connection, TOPICS, NOW)
                    if not argument:
                        await connection.rollback()
                case "sync", str():
                    command = DidSync(id=self.name(), did=argument, requested_at=NOW)
                    await self.command(connection, command)
                case "cancel", str():
                    await self._cancel(connection, argument)
                case _, int():
                    await self._change(connection, what, argument)

    async def _cancel(self, connection: Connection, identifier: str) -> None:
        by = Cancel(id=self.name(), operation_id=identifier, requested_at=NOW)
        await self.command(connection, by)

    async def _change(self, connection: Connection, what: str, place: int) -> None:
        """Let something happen to one of the operations that do work."""
        working = [
            one
            for one in await self.operations(connection)
            if one.type is Type.DID_SYNC and not one.ended and one.same_as is None
        ]
        if what != "cancel child":  # syncs of one DID follow each other
            running = {one.did for one in working if one.status is Status.RUNNING}
            working = [
                one for one in working if not (one.status is Status.QUEUED and one.did in running)
            ]
        if not working:
            return
        [one] = await write.lock(connection, [working[place % len(working)].id])
        if what == "cancel child":
            await self._cancel(connection, one.id)
            return
        if one.status is Status.QUEUED:
            one = transitions.start(one, NOW)
        one = replace(one, records_processed=3, created=2)
        if what == "complete":
            one = transitions.complete(one, NOW)
        elif what == "fail":
            one = transitions.fail(one, NOW, Failure.HOST_TIMEOUT, "slow")
        await write.save(connection, [one])

    async def operations(self, connection: Connection) -> list[Operation]:
        rows = await (await connection.execute("SELECT id FROM operations")).fetchall()
        found = await read.read_all(connection, [identifier for (identifier,) in rows])
        return sorted(found.values(), key=lambda one: one.id)

    async def all(self) -> list[Operation]:
        async with self._database.transaction() as connection:
            return await self.operations(connection)

    async def finish(self) -> None:
        """Let everything come to its end."""
        for _ in range(100):
            await self.take("step", True)
            found = await self.all()
            if all(one.ended for one in found):
                break
            for _ in found:
                await self.take("complete", 0)
        async with self._database.transaction() as connection:
            row = await (await connection.execute("SELECT count(*) FROM bulks")).fetchone()
        assert row == (0,)


def judge(found: Sequence[Operation], *, ended: bool) -> None:
    """Hold the parents to their children."""
    for parent in [one for one in found if one.id in PARENTS]:
        children = [one for one in found if one.parent == parent.id]
        dids = [one.did or "" for one in children]
        assert len(dids) == len(set(dids)), "each is chosen once"
        assert set(dids) <= SELECTED[parent.id]
        counts = parent.children
        assert counts is not None
        assert counts.chosen == len(children)
        assert counts.done <= sum(one.ended for one in children)
        if parent.ended:
            statuses = Counter(one.status for one in children)
            assert counts.done == counts.chosen == len(children)
            assert counts.completed == statuses[Status.COMPLETED]
            assert counts.cancelled == statuses[Status.CANCELLED]
            assert sum(counts.failed.values()) == statuses[Status.FAILED]
            assert parent.created == sum(one.created for one in children)
            assert parent.records_processed == sum(one.records_processed for one in children)
        if ended and parent.status is Status.COMPLETED:
            assert set(dids) == SELECTED[parent.id]
            assert counts.expected == len(dids)
        assert parent.status in (Status.COMPLETED, Status.CANCELLED) or not parent.ended


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(ACTIONS, st.integers(2, 9), st.integers(1, 4))
async def test_each_is_asked_for_once_and_counted_once(
    database: Database, actions: list[tuple[str, object]], places: int, page: int
) -> None:
    histories = Histories(database)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bulks, "OPEN_CHILDREN", places)
        patched.setattr(bulks, "_PAGE", page)
        await histories.begin()
        for what, argument in actions:
            await histories.take(what, argument)
            found = await histories.all()
            judge(found, ended=False)
            assert sum(one.parent is not None and not one.ended for one in found) <= places
        await histories.finish()
        found = await histories.all()
        assert all(one.ended for one in found)
        judge(found, ended=True)
