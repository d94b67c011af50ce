"""What SQL does to operations is what the pure transitions say, on a real PostgreSQL.

Each test writes rows as they may be, runs a statement, and compares every row with the pure
outcome: same inputs, same outcome.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumer.store.database import Database
from consumer.store.operations import claims, sweeps, write
from procedures import transitions
from procedures.failures import Failure
from procedures.messages import Emit
from procedures.operations import (
    CHILD_TYPES,
    FINAL,
    Operation,
    Phase,
    Status,
    Type,
    answered_through,
    queued,
)
from procedures.transitions import IllegalTransition
from tests.support.claiming import claim_next
from tests.support.operation_rows import FUTURE, PAST, POLICY, now_of, put, rows, sync
from tests.unit.procedures.strategies import DID, URI
from tests.unit.procedures.strategies import operations as any_operation
from tests.unit.procedures.test_transitions import STEPS

pytestmark = pytest.mark.services


OTHER = "did:plc:other"


# The database is the same for all examples: each begins by deleting its rows.
on_postgres = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def storable(operation: Operation) -> Operation:
    """Return the operation without NUL, which PostgreSQL has no text with."""

    def cleaned(text: str | None) -> str | None:
        return None if text is None else text.replace("\0", "")

    return replace(
        operation,
        reason=cleaned(operation.reason),
        requested_by=cleaned(operation.requested_by),
        error=cleaned(operation.error),
    )


stored_operations = any_operation().map(storable)


def running(identifier: str = "op", **changes: Any) -> Operation:
    """Return an operation in its first attempt."""
    return replace(transitions.start(sync(identifier), PAST), **changes)


@on_postgres
@given(stored_operations, st.lists(st.sampled_from(sorted(STEPS)), max_size=6))
async def test_what_is_saved_is_what_was_decided(
    database: Database, operation: Operation, names: list[str]
) -> None:
    async with database.transaction() as connection:
        await put(connection, [operation])
        [after] = await write.lock(connection, ["op"])
        assert after == operation
        for name in names:
            try:
                after = STEPS[name][0](after)
            except IllegalTransition:
                continue
            await write.save(connection, [after])
            assert await rows(connection) == {"op": after}


async def test_a_lease_ends_with_the_attempt_and_when_all_is_injected(database: Database) -> None:
    ends = {
        "injected": transitions.advance(running(), Phase.INJECTED),
        "queued": transitions.requeue(running(), PAST),
        "cancelled": transitions.cancel(running(), PAST),
    }
    async with database.transaction() as connection:
        await put(connection, [running()])
        await write.save(connection, [transitions.advance(running(), Phase.VERIFYING)])
        assert [one.id for one in await write.lock_leased(connection, ["op"])] == ["op"]
        for what, after in ends.items():
            await put(connection, [running()])
            await write.save(connection, [after], injected=[7])
            assert await write.lock_leased(connection, ["op"]) == [], what
            row = await (
                await connection.execute("SELECT lease_until, injected_offset FROM operations")
            ).fetchone()
            assert row == (None, None if what == "queued" else 7)


@pytest.mark.parametrize("kind", [Type.DID_SYNC, Type.RECORD_REFRESH])
async def test_what_may_start_is_claimed_and_starts_as_decided(
    database: Database, kind: Type
) -> None:
    grid = product(Status, [None, "other"], [PAST, FUTURE], [0, 3], [False, True])
    for status, same_as, run_after, attempts, automatic in grid:
        operation = replace(
            queued("op", kind, DID, PAST, uri=URI if kind is Type.RECORD_REFRESH else None),
            status=status,
            same_as=same_as,
            run_after=run_after,
            attempts=attempts,
            automatic=automatic,
            started_at=PAST if attempts else None,
            progress=40,
            records_processed=9,
            total_records=10,
            created=4,
            error="why",
            failure=Failure.HOST_TIMEOUT,
            completed_at=PAST if status in FINAL else None,
        )
        async with database.transaction() as connection:
            now = await now_of(connection)
            await put(connection, [operation])
            claimed = await claim_next(connection, kind, 60.0)
            after = (await rows(connection))["op"]
            try:
                expected = transitions.start(operation, now)
            except IllegalTransition:
                assert (claimed, after) == (None, operation)
                continue
            assert claimed is not None
            assert claimed.operation == after == expected
            assert await write.lock_leased(connection, [claimed.lease]) == [expected]


async def test_what_runs_keeps_others_of_its_subject_waiting(database: Database) -> None:
    async with database.transaction() as connection:
        await put(connection, [running("a"), sync("b"), sync("c", did=OTHER)])
        claimed = await claim_next(connection, Type.DID_SYNC, 60.0)
        assert claimed is not None
        assert claimed.operation.id == "c"
        assert await claim_next(connection, Type.DID_SYNC, 60.0) is None


async def test_automatic_syncs_and_those_of_many_take_turns_behind_what_is_asked_for(
    database: Database,
) -> None:
    def due(identifier: str, at: float, **changes: Any) -> Operation:
        return sync(identifier, did=f"did:plc:{identifier}", run_after=PAST + at, **changes)

    async with database.transaction() as connection:
        before = [
            due("many 1", 1, behind=True, parent="many"),
            due("automatic 2", 2, automatic=True),
            due("many 3", 3, behind=True, parent="many"),
            due("automatic 4", 4, automatic=True),
            due("alone", 5),
        ]
        await put(connection, before)
        claimed = []
        while (claim := await claim_next(connection, Type.DID_SYNC, 60.0)) is not None:
            claimed.append(claim.operation.id)
        assert claimed == ["alone", "many 1", "automatic 2", "many 3", "automatic 4"]
        await put(connection, before[:4])
        one = await claim_next(connection, Type.DID_SYNC, 60.0, behind=False)
        assert one is not None
        assert one.operation.id == "automatic 2"


@pytest.mark.parametrize("phase", Phase)
async def test_a_note_is_an_advance(database: Database, phase: Phase) -> None:
    async with database.transaction() as connection:
        await put(connection, [running()])
        await claims.note(connection, "op", phase, 120, 77)
        expected = transitions.advance(running(), phase, progress=120, total_records=77)
        assert await rows(connection) == {"op": expected}
        await claims.note(connection, "another lease", phase, 99)
        assert await rows(connection) == {"op": expected}


@pytest.mark.parametrize("behind", [False, True])
async def test_what_waits_for_a_host_that_failed_is_put_off_or_given_up(
    database: Database, behind: bool
) -> None:
    before = replace(running(behind=behind, parent="many"), requested_at=PAST)
    async with database.transaction() as connection:
        await put(connection, [before])
        why = (Failure.HOST_ERROR, "it failed")
        await claims.wait_for_host(connection, "op", *why, 60.0, "pds.example", policy=POLICY)
        after = (await rows(connection))["op"]
    now = after.completed_at or after.run_after - 60.0
    assert after.ended == behind
    assert after == transitions.wait_for_host(before, now, 60.0, *why, policy=POLICY)


async def test_a_sweep_requeues_what_lost_its_fetcher(database: Database) -> None:
    before = [
        running("lost"),
        running("lost too", did=OTHER, automatic=True, attempts=3),
        running("injected", did="did:plc:c", phase=Phase.INJECTED),
        sync("queued", did="did:plc:d"),
        transitions.cancel(sync("ended", did="did:plc:e"), PAST),
    ]
    async with database.transaction() as connection:
        await put(connection, before, lease_until=PAST)
        assert await sweeps.requeue_lost(connection) == 2
        after = await rows(connection)
    for one in before:
        if one.id.startswith("lost"):
            run_after = after[one.id].run_after
            one = transitions.requeue(one, run_after, error="the fetcher was lost")  # noqa: PLW2901
        assert after[one.id] == one


async def test_settling_cancels_automatic_syncs_without_coalesced_ones(
    database: Database,
) -> None:
    grid = product(Status, [Type.DID_SYNC, Type.RECORD_REFRESH], [False, True], [False, True])
    for status, kind, automatic, asked_for in grid:
        attempts = 0 if status is Status.QUEUED else 1
        operation = replace(
            queued("op", kind, DID, PAST, uri=URI, automatic=automatic),
            status=status,
            attempts=attempts,
            failure=Failure.HOST_TIMEOUT,
            started_at=PAST if attempts else None,
            completed_at=PAST if status in FINAL else None,
        )
        before = [operation, replace(operation, id="elsewhere", did=OTHER, uri=URI + "x")]
        if asked_for:
            before.append(sync("follows", same_as="op"))
        async with database.transaction() as connection:
            now = await now_of(connection)
            await put(connection, before)
            await write.settle(connection, [DID])
            after = await rows(connection)
        moot = automatic and kind is Type.DID_SYNC and status is Status.QUEUED and not asked_for
        why = "the repository became active without it"
        expected = transitions.cancel(operation, now, why) if moot else operation
        assert after == {one.id: one for one in [expected, *before[1:]]}


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize("step", ["requeue", "try_again", "put_off"])
async def test_an_automatic_sync_that_is_queued_again_replaces_the_queued_one(
    database: Database, step: str, automatic: bool
) -> None:
    began = running("began", automatic=automatic, attempts=2)
    waiting = sync("waiting", automatic=True, failure=Failure.INTERNAL)
    others = [
        sync("asked for"),
        replace(queued("refresh", Type.RECORD_REFRESH, DID, PAST, uri=URI), automatic=True),
        sync("elsewhere", did=OTHER, automatic=True),
    ]
    follows, ended = sync("follows", same_as="waiting"), sync("ended", same_as="waiting")
    ended = transitions.cancel(ended, PAST)
    match step:
        case "requeue":
            again = transitions.requeue(began, FUTURE)
        case "put_off":
            again = transitions.put_off(began, FUTURE, Failure.HOST_ERROR, "busy")
        case _:
            again = transitions.try_again(
                began, PAST, Failure.HOST_TIMEOUT, "slow", policy=POLICY, chance=0.0
            )
    async with database.transaction() as connection:
        now = await now_of(connection)
        await put(connection, [began, waiting, follows, ended, *others])
        await write.save(connection, [again])
        after = await rows(connection)
    if automatic:
        waiting = transitions.cancel(waiting, now, "operation began does the same")
        # Moved, and told that its new primary has changed.
        follows = replace(follows, same_as="began", version=follows.version + 2)
    assert after == {one.id: one for one in [again, waiting, follows, ended, *others]}


@on_postgres
@given(
    st.sampled_from(sorted(STEPS)),
    stored_operations.filter(lambda one: one.type not in CHILD_TYPES),  # nothing follows a parent
    st.sampled_from(Emit),
)
async def test_coalesced_operations_end_as_they_are_answered(
    database: Database, name: str, primary: Operation, emit: Emit
) -> None:
    coalesced = replace(
        queued("waits", primary.type, primary.did, PAST, uri=primary.uri, emit=emit),
        same_as="op",
        requested_by="did:web:me",
    )
    alone = transitions.cancel(replace(coalesced, id="alone"), PAST)
    try:
        after = STEPS[name][0](primary)
    except IllegalTransition:
        return
    async with database.transaction() as connection:
        await put(connection, [primary, coalesced, alone])
        await write.save(connection, [after])
        found = await rows(connection)
    changed = replace(coalesced, version=coalesced.version + 1)
    assert found["alone"] == alone
    if not after.ended:
        assert found["waits"] == changed
        return
    # The row keeps what only its own start would change.
    expected = replace(answered_through(changed, after), run_after=coalesced.run_after)
    assert found["waits"] == expected
