"""Who gets the fetchers' slots, and what becomes of operations whose fetcher goes."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from consumer.store.operations import claims
from procedures.failures import Failure
from procedures.operations import Type
from tests.support.claiming import claim_next
from tests.support.eventually import eventually
from tests.support.operating import Stage
from tests.support.pds import pds, silence, trickle

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def test_a_cancel_stops_the_download_and_frees_its_place(stage: Stage) -> None:
    slow, quick = stage.pds.account("slow", records=3), stage.pds.account("quick", records=3)
    stage.pds.says(slow, trickle(slow.whole(), every=0.1))
    async with stage.fetching(syncs=1):
        await stage.sync("slow", slow)
        await stage.until("slow", status="running", phase="downloading")
        await stage.sync("quick", quick)
        await stage.command("stop", type="cancel", operationId="slow")
        await stage.until("slow", status="cancelled")
        await stage.until("quick")
    assert await stage.index(slow) == {}


async def test_a_slot_is_kept_for_what_was_asked_for(stage: Stage) -> None:
    slow = [stage.pds.account(f"slow {n}", records=3) for n in range(3)]
    asked = stage.pds.account("asked", records=3)
    for repo in slow:
        stage.pds.says(repo, trickle(repo.whole(), every=0.2))
        await stage.want_sync(repo)
    async with stage.fetching(syncs=2):

        async def begun() -> bool:
            rows = await stage.rows()
            return "running" in {row["status"] for row in rows.values()}

        await eventually(begun, what="a sync begins", deadline=60)
        await stage.until(await stage.sync("asked", asked))
        statuses = [row["status"] for row in (await stage.rows()).values() if row["automatic"]]
        assert sorted(statuses) == ["queued", "queued", "running"]


async def test_automatic_syncs_of_one_did_are_throttled(stage: Stage) -> None:
    often, once = stage.pds.account("often"), stage.pds.account("once")
    for _ in range(6):
        await stage.want_sync(often)
        async with stage.harness.database.transaction() as connection:
            await connection.execute("UPDATE operations SET status = 'completed'")
    await stage.want_sync(once)
    waits = await stage.harness.rows(
        "SELECT extract(epoch FROM run_after - requested_at)::int FROM operations"
        " ORDER BY requested_at"
    )
    assert [wait for (wait,) in waits] == [0, 0, 0, 10, 20, 40, 0]


async def test_a_busy_host_takes_no_place_and_costs_no_attempt(stage: Stage) -> None:
    slow = [stage.pds.account(f"slow {n}", records=3) for n in range(4)]
    for repo in slow:
        stage.pds.says(repo, trickle(repo.whole(), every=0.01, size=100))
        await stage.sync(repo.account.did, repo)
    async with AsyncExitStack() as stack:
        other = (await stack.enter_async_context(pds(stage.plc))).account("other", records=3)
        await stage.sync("other", other)
        async with stage.fetching(syncs=2, requests_per_host=1):
            rows = await stage.until("other", *(repo.account.did for repo in slow))
    assert {row["attempts"] for row in rows} == {1}


async def test_an_attempt_that_was_put_off_is_none(stage: Stage) -> None:
    await stage.sync("sync", stage.pds.account("alice"))
    await stage.until("sync", status="queued")
    async with stage.harness.database.transaction() as connection:
        claim = await claim_next(connection, Type.DID_SYNC, 60.0)
        assert claim is not None
        await claims.put_off(
            connection, claim.lease, Failure.HOST_ERROR, "busy", 60.0, "pds.example"
        )
    (row,) = await stage.until("sync", status="queued", attempts=0)
    assert row["started_at"] is None


async def test_a_fetcher_that_stops_gives_back_what_it_had(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=3)
    stage.pds.says(repo, silence)
    async with stage.fetching(first_byte=60.0):
        await stage.sync("sync", repo)
        await stage.until("sync", status="running", phase="downloading")
    await stage.until("sync", status="queued", error="the fetcher stopped")
    stage.pds.host(repo)
    async with stage.fetching():
        await stage.until("sync", attempts=2)


async def test_a_fetcher_that_was_lost_is_replaced_and_does_no_harm(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=3)
    await stage.sync("sync", repo)
    await stage.until("sync", status="queued")
    async with stage.harness.database.transaction() as connection:
        lost = await claim_next(connection, Type.DID_SYNC, 0.5)
    assert lost is not None
    async with stage.fetching():
        await stage.until("sync", attempts=2, created=3)
    async with stage.harness.database.transaction() as connection:
        assert await claims.extend(connection, [lost.lease], 60.0) == set()
        await claims.injected(connection, [(lost, 0)])
        await claims.give_back(connection, [lost.lease])
    await stage.until("sync", attempts=2, created=3)


async def test_requests_for_one_did_share_a_download(stage: Stage) -> None:
    repo = stage.pds.account("alice", records=3)
    names = [f"sync-{n}" for n in range(5)]
    for name in names:
        await stage.sync(name, repo)
    await stage.until(*names, status="queued")
    async with stage.fetching():
        rows = await stage.until(*names)
    assert {(row["created"], row["progress"]) for row in rows} == {(3, 100)}
    downloads = [path for path in stage.pds.site.paths if "getRepo" in path]
    assert len(downloads) == 1
