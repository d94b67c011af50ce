"""How long operations wait, in SQL as the rules say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consumer.state.effects import SyncReason, SyncRequest
from consumer.store.database import Database
from consumer.store.operations import queue, write
from procedures import transitions
from procedures.failures import Failure
from procedures.operations import (
    Status,
    Type,
    queued,
)
from tests.support.operation_rows import PAST, POLICY, now_of, put, rows, sync
from tests.unit.procedures.strategies import DID, URI

pytestmark = pytest.mark.services


async def test_automatic_syncs_are_throttled_as_the_rule_says(database: Database) -> None:
    async with database.transaction() as connection:
        now = await now_of(connection)
        for recent in range(14):
            await put(
                connection,
                [
                    replace(
                        transitions.cancel(sync(f"old-{n}", automatic=True), now),
                        requested_at=now - 1,
                    )
                    for n in range(recent)
                ],
            )
            wanted = [SyncRequest(DID, SyncReason.LOSS_WINDOW, 1)]
            await queue.add(connection, 0, wanted, POLICY.throttle)
            [new] = [one for one in (await rows(connection)).values() if not one.ended]
            wait = POLICY.throttle.steps[min(recent, len(POLICY.throttle.steps) - 1)]
            assert new.run_after == pytest.approx(now + wait, abs=0.001)


@pytest.mark.parametrize("end", [Status.FAILED, Status.CANCELLED])
@pytest.mark.parametrize("repairs", [False, True])
async def test_renewed_syncs_wait_as_the_rule_says(
    database: Database, end: Status, repairs: bool
) -> None:
    async with database.transaction() as connection:
        now = await now_of(connection)
        await connection.execute(
            "INSERT INTO repos (did, lane, sync_state, status) VALUES (%s, 0, %s, 'active')",
            [DID, "desynchronized"],
        )
        for failures in [*range(14), 30, 40]:
            ended = replace(sync(automatic=True), status=end, completed_at=PAST)
            await put(connection, [ended])
            await connection.execute("UPDATE operations SET setbacks = %s", [failures])
            if repairs:
                await queue.repair(connection, POLICY.renewal, "", 10)
            else:
                await queue.renew(connection, [DID], POLICY.renewal)
            [new] = [one for one in (await rows(connection)).values() if not one.ended]
            shortest = POLICY.renewal.wait(failures + 1, 0.0)
            assert now + shortest - 0.001 <= new.run_after <= now + 2 * shortest + 0.001
            row = await (
                await connection.execute("SELECT setbacks FROM operations WHERE id = %s", [new.id])
            ).fetchone()
            assert row == (min(failures, 30) + 1,)


async def test_refreshes_in_vain_are_renewed_with_growing_waits_and_an_end(
    database: Database,
) -> None:
    refresh = queued("refresh", Type.RECORD_REFRESH, DID, PAST, uri=URI)
    async with database.transaction() as connection:
        now = await now_of(connection)
        await connection.execute(
            "INSERT INTO repos (did, lane, sync_state, status) VALUES (%s, 0, 'active', 'active')",
            [DID],
        )
        failed = transitions.fail(replace(refresh, automatic=True), PAST, Failure.HOST_ERROR, "no")
        await put(connection, [failed])
        identifier = failed.id
        for setbacks in range(queue.REFRESHES_IN_VAIN):
            for _ in range(2):  # asking again changes nothing
                await queue.renew_refreshes(connection, [identifier], POLICY.renewal)
            [new] = [one for one in (await rows(connection)).values() if not one.ended]
            assert (new.type, new.uri, new.automatic) == (Type.RECORD_REFRESH, URI, True)
            shortest = POLICY.renewal.wait(setbacks + 1, 0.0)
            assert now + shortest - 0.001 <= new.run_after <= now + 2 * shortest + 0.001
            await write.save(connection, [transitions.fail(new, PAST, Failure.HOST_ERROR, "no")])
            identifier = new.id
        await queue.renew_refreshes(connection, [identifier], POLICY.renewal)
        assert all(one.ended for one in (await rows(connection)).values()), "that was the last"


@pytest.mark.parametrize(
    ("automatic", "failure", "status"),
    [
        (False, Failure.HOST_ERROR, "active"),
        (True, Failure.OUT_OF_SCOPE, "active"),
        (True, Failure.HOST_ERROR, "deleted"),
        (True, None, "active"),
    ],
)
async def test_which_refreshes_are_not_renewed(
    database: Database, automatic: bool, failure: Failure | None, status: str
) -> None:
    refresh = replace(
        queued("refresh", Type.RECORD_REFRESH, DID, PAST, uri=URI), automatic=automatic
    )
    ended = transitions.cancel(refresh, PAST)
    if failure is not None:
        ended = transitions.fail(refresh, PAST, failure, "no")
    async with database.transaction() as connection:
        await connection.execute(
            "INSERT INTO repos (did, lane, sync_state, status) VALUES (%s, 0, 'active', %s)",
            [DID, status],
        )
        await put(connection, [ended])
        await queue.renew_refreshes(connection, ["refresh"], POLICY.renewal)
        assert list(await rows(connection)) == ["refresh"]


async def test_a_repo_whose_sync_never_ended_in_vain_is_repaired_at_once(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        now = await now_of(connection)
        await connection.execute(
            "INSERT INTO repos (did, lane, sync_state, status) VALUES (%s, 0, %s, 'active')",
            [DID, "desynchronized"],
        )
        await queue.renew(connection, [DID], POLICY.renewal)
        assert await rows(connection) == {}, "nothing ended"
        assert await queue.repair(connection, POLICY.renewal, "", 10) == (1, "")
        [new] = (await rows(connection)).values()
        assert new.run_after == pytest.approx(now, abs=0.001)
        row = await (await connection.execute("SELECT setbacks FROM operations")).fetchone()
        assert row == (0,)
