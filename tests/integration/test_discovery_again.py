"""When listings are read again, and what becomes of what was found."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import orjson
import pytest

from consumer.control.commands import carry_out
from consumer.scope import Repos, Scope
from consumer.state.discovery import SWEEP
from consumer.store import searches
from procedures.messages import Discover
from procedures.retries import DEFAULT
from tests.support.deployment import Deployment
from tests.support.discovery import (
    COMMENTS,
    OLD,
    OLDER,
    RULES,
    VOTES,
    DiscoveryHarness,
    did,
    failed_once,
    harnessed,
    lists,
    page,
)
from tests.support.eventually import eventually
from tests.support.web import response

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DiscoveryHarness]:
    async with harnessed(deployment, monkeypatch) as opened:
        yield opened


async def test_another_relay_is_searched_anew(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1], "b"))
    lists(harness.relay, VOTES, "b", response(503, retry_after="9"))
    async with harness.discovering():
        await eventually(lambda: len(harness.relay.requests) > 1, what="it is half read")
    harness.relay, left = harness.other, harness.relay
    lists(harness.relay, VOTES, None, page([2]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
    assert "cursor" not in harness.relay.paths[0]
    assert await harness.state(VOTES, left) is None


async def test_a_new_epoch_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    await harness.epoch(1)
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="the search ends")
        lists(harness.relay, VOTES, None, page([1, 2]))
        await harness.epoch(2)
        await eventually(harness.both, what="the one that came in between is found")


async def test_the_timer_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    harness.rules = replace(RULES, repeat_every=0.3)
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(lambda: len(harness.relay.requests) > 2, what="it is repeated")


async def test_a_command_opens_the_listings_again(harness: DiscoveryHarness) -> None:
    harness.scope = Scope((VOTES, COMMENTS))
    harness.sources = ("relay", harness.other.origin)
    for source in (harness.relay, harness.other):
        lists(source, VOTES, None, page([1]))
        lists(source, COMMENTS, None, page([2]))

    async def command(identifier: str, collection: str | None, source: str | None) -> str:
        told = Discover(
            id=identifier, collection=collection, source=source, requested_by="me", requested_at=1.0
        )
        async with harness.database.transaction() as connection:
            for _ in range(2):  # a repeated command is the same
                await carry_out(connection, [told], harness.topics, harness.scope, DEFAULT, 1.0)

        async def ended() -> str | None:
            sql = "SELECT status FROM operations WHERE id = %s"
            ((status,),) = await harness.rows(sql, [identifier])
            return str(status) if status not in ("queued", "running") else None

        return await eventually(ended, what="the command ends") or ""

    async with harness.discovering():
        await harness.operations()
        await eventually(lambda: harness.searched(COMMENTS), what="the first searches")
        await harness.operations()
        assert len(harness.relay.requests) == 2
        assert await command("one", VOTES, None) == "completed"
        assert len(harness.relay.requests) == 3
        assert await command("two", None, harness.other.origin) == "completed"
        assert len(harness.other.requests) == 2
        assert await command("three", "org.example.none", None) == "failed"
        assert await command("four", None, "https://elsewhere.example") == "failed"


async def test_a_command_takes_over_a_search_whose_page_is_being_read(
    harness: DiscoveryHarness,
) -> None:
    harness.sources = ("relay", harness.other.origin)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def late(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(response(404))

    lists(harness.relay, VOTES, None, late)
    lists(harness.other, VOTES, None, page([1, 2]))
    told = Discover(id="mine", collection=VOTES, source=None, requested_at=1.0)

    async def taken_over() -> bool:
        return await harness.rows("SELECT operation FROM searches") == [("mine",)]

    async with harness.discovering():
        await asyncio.wait_for(asked.wait(), 30)
        async with harness.database.transaction() as connection:
            await carry_out(connection, [told], harness.topics, harness.scope, DEFAULT, 1.0)
        await eventually(taken_over, what="the command has the search")
        async with harness.database.transaction() as plan:  # that is being made elsewhere
            await searches.one_by_one(plan)
            go_on.set()
            await asyncio.sleep(0.5)
            assert await harness.state(VOTES) == "open"
        await eventually(harness.both, what="both are fed")
        await harness.operations()
    rows = await harness.rows("SELECT status FROM operations WHERE id = 'mine'")
    assert rows == [("completed",)]


async def test_a_discovery_that_is_cancelled_stops(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, response(503, retry_after="1"))
    async with harness.discovering():
        await eventually(lambda: harness.relay.requests, what="it has begun")
        await harness.execute(
            "UPDATE operations SET status = 'cancelled', completed_at = now(),"
            " version = version + 1 WHERE type = 'discovery'"
        )
        await eventually(lambda: harness.searched(VOTES, "incomplete"), what="it stops")


async def test_only_what_is_due_is_a_crowd(harness: DiscoveryHarness) -> None:
    harness.queued = 2
    lists(harness.relay, VOTES, None, page([1, 2], "b"))
    lists(harness.relay, VOTES, "b", page([3, 4]))
    async with harness.discovering():
        await eventually(lambda: harness.searched(VOTES), what="no page waits for the crowd")
        await eventually(harness.both, what="two are fed")
        # Their hosts are away: they are due again tomorrow, and hold up no other.
        await harness.execute(
            "UPDATE operations SET run_after = now() + interval '1 day', attempts = 1,"
            " version = version + 1 WHERE type = 'didSync'"
        )
        await eventually(
            lambda: _four(harness), what="the others are fed though two wait for their hosts"
        )


async def _four(harness: DiscoveryHarness) -> bool:
    return len(await harness.synced()) == 4


async def test_a_stranger_whose_sync_fails_is_remembered(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("RepoInvalid")
        await eventually(lambda: failed_once(harness), what="the failure is seen")
        assert await harness.found() == [(did(1), 1, "RepoInvalid")]
        await harness.execute("UPDATE found SET next_try = now()")
        await eventually(lambda: _queued_again(harness), what="it is fed again")
        await harness.know(1, OLD)
        await harness.end_syncs(None, "completed")
        await eventually(lambda: _nothing(harness), what="it is known now")


async def _queued_again(harness: DiscoveryHarness) -> bool:
    return len(await harness.synced()) == 2


async def _nothing(harness: DiscoveryHarness) -> bool:
    return not await harness.found()


async def test_what_is_gone_is_forgotten(harness: DiscoveryHarness) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("DidNotFound")
        await eventually(lambda: _nothing(harness), what="it is forgotten")


async def test_a_host_that_knows_nothing_is_asked_before_it_is_believed(
    harness: DiscoveryHarness,
) -> None:
    lists(harness.relay, VOTES, None, page([1]))
    async with harness.discovering():
        await eventually(harness.synced, what="it is fed")
        await harness.end_syncs("RepoNotFound")
        # Its document cannot be read now, so nothing is known of it.
        await eventually(lambda: failed_once(harness), what="it is tried again")
    assert await harness.found() == [(did(1), 1, "RepoNotFound")]


async def test_a_listing_that_says_otherwise_raises_a_question(harness: DiscoveryHarness) -> None:
    harness.scope = Scope(("*",))
    for number, status in enumerate(["active", "active", "deactivated", "deactivated"], 1):
        await harness.know(number, OLD, status)
    listed = [(1, True), (2, False), (3, True), (4, False)]
    entries = [{"did": did(number), "active": active} for number, active in listed]
    lists(harness.relay, "*", None, response(200, orjson.dumps({"repos": entries})))
    async with harness.discovering():
        await eventually(lambda: harness.searched("*"), what="the search ends")
    assert await harness.rows("SELECT did, kind, cause FROM lookups ORDER BY did") == [
        (did(2), "account", "listing"),
        (did(3), "account", "listing"),
    ]
    assert await harness.rows("SELECT DISTINCT status FROM repos ORDER BY status") == [
        ("active",),
        ("deactivated",),
    ]


async def test_a_sweep_finds_those_that_we_are_behind(harness: DiscoveryHarness) -> None:
    harness.scope, harness.sweep_every = Scope((VOTES,), Repos.LISTED), 3_600.0
    await harness.know(1, OLDER)
    await harness.know(2, OLD)
    await harness.know(3, OLDER, "deactivated")
    lists(harness.relay, "*", None, page([1, 2, 3, 4], rev=OLD))
    async with harness.discovering():
        await eventually(lambda: harness.searched(SWEEP), what="the sweep ends")
    assert await harness.synced() == [did(1)]
    assert await harness.rows("SELECT reason FROM operations WHERE type = 'didSync'") == [
        ("listed_newer",)
    ]
