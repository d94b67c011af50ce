"""Commands for many repositories, on a real Kafka and PostgreSQL: parents and their children.

No fetcher runs: the tests end the children themselves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from psycopg.types.json import Jsonb

from consumer.control import bulks
from consumer.control.role import Controller
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from consumer.store import selections
from consumer.store.database import Connection
from procedures.retries import RetryPolicy
from procedures.selections import By, Selection
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running

pytestmark = pytest.mark.services

DIDS = [f"did:web:n{number:03}.example" for number in range(60)]
ENDED = "('completed', 'failed', 'cancelled')"
NOBODY = "00000000-0000-0000-0000-000000000000"


def sync(identifier: str, **fields: Any) -> bytes:
    return orjson.dumps({"type": "didSync", "id": identifier, **fields})


def cancel(identifier: str) -> bytes:
    return orjson.dumps({"type": "cancel", "operationId": identifier, "requestedBy": "me"})


class BulkHarness(Harness):
    """A controller, and repositories that only have rows."""

    def controller(self) -> Controller:
        scope = Scope(("pub.chive.*",))
        return Controller(
            self.client,
            self.topics,
            self.database,
            Publisher(self.client, self.topics, self.database),
            scope,
            forget_after=3600.0,
            retries=RetryPolicy(),
        )

    @asynccontextmanager
    async def controlling(self) -> AsyncIterator[None]:
        async with running(self.controller().run):
            yield

    async def command(self, *values: bytes) -> None:
        await self.write(Topic.CONTROL, *values)

    async def add_repo(
        self,
        did: str,
        *paths: str,
        pds: str = "https://a.example",
        status: str = "active",
        state: str = "active",
    ) -> None:
        await self.execute(
            "INSERT INTO repos (did, lane, status, sync_state, pds, reason) VALUES"
            " (%s, 0, %s, %s, %s, 'loss_window')",
            [did, status, state, pds],
        )
        for path in paths:
            cid = None if path.startswith("-") else b"\x01"
            await self.execute(
                "INSERT INTO records (did, path, cid, rev) VALUES (%s, %s, %s, '3a')",
                [did, path.removeprefix("-"), cid],
            )

    async def end(self, where: str, status: str = "completed", **values: Any) -> None:
        """End the children that are open, as a worker does: started, applied, ended."""
        sets = "".join(f", {name} = %s" for name in values)
        await self.execute(
            f"UPDATE operations SET status = '{status}', attempts = 1, started_at = now(),"  # noqa: S608
            f" completed_at = now(), version = version + 1 {sets}"
            f" WHERE parent IS NOT NULL AND status NOT IN {ENDED} AND same_as IS NULL AND {where}",
            list(values.values()),
        )

    async def parent(self, identifier: str) -> dict[str, Any]:
        """Return the newest published version of an operation."""
        found: dict[str, Any] = {}
        for record in await self.committed(Topic.OPERATIONS):
            if record.key == identifier.encode() and record.value is not None:
                found = orjson.loads(record.value)
        return found

    async def until(self, identifier: str, **children: Any) -> dict[str, Any]:
        """Wait until the parent is published with these counts of children, and return it."""

        async def look() -> dict[str, Any]:
            found = await self.parent(identifier)
            seen = found.get("children", {})
            assert {name: seen.get(name) for name in children} == children, found
            return found

        parent: dict[str, Any] = await eventually(look, what=f"{children}", deadline=90)
        return parent

    async def children_of(self, identifier: str) -> list[str]:
        rows = await self.rows(
            "SELECT did FROM operations WHERE parent = %s ORDER BY did", [identifier]
        )
        return [did for (did,) in rows]

    async def letters(self, count: int) -> list[Record]:
        async def look() -> list[Record]:
            found = await self.committed(Topic.DEAD_LETTER)
            assert len(found) >= count
            return found

        found: list[Record] = await eventually(look, what=f"{count} dead letters", deadline=90)
        for record in found:
            validate(record)
        return found


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[BulkHarness]:
    async with BulkHarness.opened(deployment) as harness:
        yield harness


# -- selections ---------------------------------------------------------------------------------


async def chosen(connection: Connection, selection: Selection, most: int = 3) -> list[str]:
    """Return what the pages of a selection choose together."""
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await selections.page(connection, selection, after, most)
        assert len(page.dids) <= most
        found += page.dids
        after = page.after
    assert await selections.count(connection, selection) == len(found)
    return found


@pytest.mark.parametrize("looked_at", [2, 5_000])
async def test_each_selector_picks_exactly_the_right_repositories(
    harness: BulkHarness, monkeypatch: pytest.MonkeyPatch, looked_at: int
) -> None:
    monkeypatch.setattr(selections, "_LOOKED_AT", looked_at)
    vote, review = "pub.chive.graph.vote/1", "pub.chive.review.comment/1"
    a, b, c, d, gone, away, unknown = (f"did:web:{name}.example" for name in "abcdghu")
    await harness.add_repo(a, vote, review)
    await harness.add_repo(b, review, f"-{vote}", pds="https://b.example:8443")
    await harness.add_repo(c, "pub.chive.graph.votes/1", state="desynchronized")
    await harness.add_repo(d, vote, pds="https://b.example")
    await harness.add_repo(gone, vote, status="deleted")
    await harness.add_repo(away, vote, status="deactivated", state="desynchronized")
    operation = (
        "INSERT INTO operations (id, type, did, lane, automatic, status, completed_at) VALUES"
        " (%s, %s, %s, 0, false, %s, now() - make_interval(secs => %s))"
    )
    for number, (did, status, ago, kind) in enumerate(
        [
            (a, "failed", 9, "didSync"),
            (a, "completed", 5, "didSync"),
            (b, "completed", 9, "didSync"),
            (b, "failed", 5, "didSync"),
            (b, "failed", 4, "didSync"),
            (c, "failed", 9, "didSync"),
            (c, "cancelled", 5, "didSync"),
            (d, "failed", 9, "didSync"),
            (d, "cancelled", 5, "didSync"),
            (away, "failed", 5, "recordRefresh"),
            (gone, "failed", 5, "didSync"),
            (unknown, "failed", 5, "didSync"),
        ]
    ):
        await harness.execute(operation, [str(number), kind, did, status, ago])
    expected = {
        Selection(By.ALL): [a, b, c, d, away],
        Selection(By.HOST, "b.example"): [d],
        Selection(By.HOST, "b.example:8443"): [b],
        Selection(By.HOST, "elsewhere.example"): [],
        Selection(By.COLLECTION, "pub.chive.graph.vote"): [a, d, away],
        Selection(By.COLLECTION, "pub.chive.review.*"): [a, b],
        Selection(By.COLLECTION, "pub.chive.*"): [a, b, c, d, away],
        Selection(By.COLLECTION, "pub.chive.graph.follow"): [],
        Selection(By.FAILED): [b, c, unknown],
        Selection(By.DIDS, dids=(a, gone, "did:web:new.example")): [a, gone, "did:web:new.example"],
    }
    async with harness.database.transaction() as connection:
        for selection, dids in expected.items():
            for most in (1, 2, 100):
                assert await chosen(connection, selection, most) == dids, selection
        page = await selections.page(connection, Selection(By.ALL), away, 100)
        assert page.skipped == 0
        page = await selections.page(connection, Selection(By.ALL), d, 1)
        assert (page.dids, page.skipped) == ((away,), 1)


# -- parents ------------------------------------------------------------------------------------


async def test_one_operation_has_the_progress_of_all_and_tells_what_became_of_each(
    harness: BulkHarness,
) -> None:
    for did in DIDS[:5]:
        await harness.add_repo(did)
    await harness.add_repo(DIDS[5], status="deleted")
    await harness.command(sync("many", select={"all": True}, emit="all", requestedBy="me"))
    async with harness.controlling():
        await harness.until("many", chosen=5, expected=5, skipped=1, done=0)
        rows = await harness.rows(
            "SELECT did, type, emit_all, requested_by, automatic, behind FROM operations"
            " WHERE parent = 'many' ORDER BY did"
        )
        assert rows == [(did, "didSync", True, "me", False, True) for did in DIDS[:5]]
        await harness.end(f"did = '{DIDS[0]}'", records_processed=7, created=3, deleted=1)
        await harness.end(f"did = '{DIDS[1]}'", "failed", failure="HostTimeout")
        halfway = await harness.until("many", done=2)
        assert (halfway["status"], halfway["phase"]) == ("running", "children")
        assert (halfway["progress"], halfway["recordsProcessed"]) == (40, 7)
        await harness.end(f"did = '{DIDS[2]}'", "failed", failure="RepoNotFound")
        await harness.end("true", records_processed=1, updated=1)
        end = await harness.until("many", done=5)
    assert end["children"] == {
        "expected": 5,
        "chosen": 5,
        "done": 5,
        "completed": 3,
        "failed": {"HostTimeout": 1, "RepoNotFound": 1},
        "cancelled": 0,
        "skipped": 1,
    }
    assert (end["status"], end["progress"], end["type"]) == ("completed", 100, "bulkSync")
    assert (end["created"], end["updated"], end["deleted"]) == (3, 2, 1)
    assert (end["recordsProcessed"], end["reason"]) == (9, "all")
    assert await harness.rows("SELECT * FROM bulks") == []


async def test_what_selects_nothing_ends_at_once(harness: BulkHarness) -> None:
    await harness.command(sync("none", select={"host": "nobody.example"}))
    async with harness.controlling():
        end = await harness.until("none", expected=0, done=0)
    assert end["status"] == "completed"


async def test_a_list_is_expanded_a_few_at_a_time_and_each_did_once(
    harness: BulkHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "OPEN_CHILDREN", 12)
    monkeypatch.setattr(bulks, "_PAGE", 5)
    await harness.command(sync("one", dids=DIDS[:40]), sync("two", dids=DIDS[40:]))
    most = 0
    async with harness.controlling():

        async def done() -> bool:
            nonlocal most
            ((count,),) = await harness.rows(
                "SELECT count(*) FROM operations"  # noqa: S608
                f" WHERE parent IS NOT NULL AND status NOT IN {ENDED}"
            )
            most = max(most, count)
            await harness.end("random() < 0.5", records_processed=1)
            parents = [await harness.parent(name) for name in ("one", "two")]
            return [each.get("status") for each in parents] == ["completed"] * 2

        await eventually(done, what="all have ended", deadline=120)
    assert 6 <= most <= 12
    assert await harness.children_of("one") == DIDS[:40]
    assert await harness.children_of("two") == DIDS[40:]
    assert (await harness.parent("one"))["recordsProcessed"] == 40
    assert (await harness.parent("two"))["children"]["completed"] == 20


async def test_a_controller_that_takes_over_in_the_middle_repeats_nothing(
    harness: BulkHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "OPEN_CHILDREN", 10)
    monkeypatch.setattr(bulks, "_PAGE", 3)
    for did in DIDS:
        await harness.add_repo(did)
    await harness.command(sync("all", select={"all": True}))
    for number in range(3):
        async with harness.controlling():
            # What is open is a multiple of no page: the expansion is stopped within it.
            await harness.until("all", chosen=10 * (number + 1))
        await harness.end("true")
    async with harness.controlling():

        async def done() -> bool:
            await harness.end("true")
            return (await harness.parent("all")).get("status") == "completed"

        await eventually(done, what="it has ended", deadline=120)
    assert await harness.children_of("all") == DIDS
    end = await harness.parent("all")
    assert (end["children"]["completed"], end["children"]["expected"]) == (60, 60)


async def test_a_step_that_is_lost_with_its_transaction_is_taken_again(
    harness: BulkHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for did in DIDS[:6]:
        await harness.add_repo(did)
    monkeypatch.setattr(bulks, "_PAGE", 3)
    await harness.execute(
        "INSERT INTO operations (id, type, lane, automatic, children) VALUES"
        " ('all', 'bulkSync', 4, false, '{}')"
    )
    await harness.execute(
        "INSERT INTO bulks (operation, selection) VALUES ('all', %s)",
        [Jsonb({"select": {"all": True}})],
    )
    for kept in (False, True, False, False, True):
        async with harness.database.transaction() as connection:
            await bulks.step(connection, harness.topics, 4e9)
            if not kept:
                await connection.rollback()
    assert await harness.children_of("all") == DIDS[:6]


async def test_cancelling_the_parent_cancels_all_and_hands_work_over(
    harness: BulkHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulks, "OPEN_CHILDREN", 4)
    await harness.command(sync("many", dids=DIDS[:10]))
    async with harness.controlling():
        await harness.until("many", chosen=4)
        await harness.end(f"did = '{DIDS[0]}'", records_processed=2)
        await harness.until("many", chosen=5, completed=1)
        await harness.execute(
            "UPDATE operations SET status = 'running', phase = 'downloading', attempts = 1,"
            " started_at = now(), lease_owner = 'x', lease_until = now() + interval '1 hour',"
            " version = version + 1 WHERE parent = 'many' AND did = %s",
            [DIDS[1]],
        )
        await harness.command(sync("single", did=DIDS[2]), cancel("many"))
        end = await harness.until("many", cancelled=4)
    assert (end["status"], end["error"]) == ("cancelled", "cancelled by me")
    assert (end["children"]["completed"], end["recordsProcessed"]) == (1, 2)
    assert await harness.rows(
        f"SELECT id, status, same_as FROM operations WHERE status NOT IN {ENDED}"  # noqa: S608
    ) == [("single", "queued", None)]
    assert await harness.rows("SELECT lease_owner FROM operations WHERE did = %s", [DIDS[1]]) == [
        (None,)
    ]
    assert await harness.rows("SELECT * FROM bulks") == []


async def test_children_are_coalesced_with_what_is_queued_and_stay_behind_it(
    harness: BulkHarness,
) -> None:
    asked, automatic, later = DIDS[:3]
    await harness.execute(
        "INSERT INTO operations (id, type, did, lane, automatic, run_after) VALUES"
        " ('automatic', 'didSync', %s, 0, true, now() + interval '1 hour')",
        [automatic],
    )
    await harness.command(sync("asked", did=asked), sync("many", dids=[asked, automatic, later]))
    async with harness.controlling():
        await harness.until("many", chosen=3)
        await harness.command(sync("later", did=later))
        await eventually(lambda: harness.parent("later"), what="it is queued", deadline=60)
        children = dict(
            await harness.rows("SELECT did, same_as FROM operations WHERE parent = 'many'")
        )
        assert children == {asked: "asked", automatic: "automatic", later: None}
        rows = await harness.rows(
            "SELECT id, automatic, behind, run_after <= now() FROM operations"
            " WHERE id IN ('asked', 'automatic') ORDER BY id"
        )
        assert rows == [("asked", False, False, True), ("automatic", False, True, True)]
        # The child is brought forward by the one that was asked for by itself.
        ((behind,),) = await harness.rows(
            "SELECT behind FROM operations WHERE parent = 'many' AND did = %s", [later]
        )
        assert not behind
        await harness.execute(
            "UPDATE operations SET status = 'completed', attempts = 1, started_at = now(),"
            " completed_at = now(), created = 4, version = version + 1 WHERE same_as IS NULL"
            " AND did IS NOT NULL"
        )
        end = await harness.until("many", completed=3)
        assert end["created"] == 12
        assert (await harness.parent("later"))["sameAs"]


async def test_what_selects_nothing_that_can_be_is_refused_with_its_reason(
    harness: BulkHarness,
) -> None:
    bad = {
        sync("a", select={"everything": True}): "command_invalid_selection",
        sync("b", select={"all": True, "failed": True}): "command_invalid_selection",
        sync("c", dids=[]): "command_invalid_selection",
        sync("d", dids=["alice.example"]): "command_invalid_did",
        sync("e", did=DIDS[0], select={"all": True}): "command_invalid_selection",
        sync("many", select={"failed": True}): "command_id_taken",
    }
    good = sync("many", dids=DIDS[:2])
    await harness.command(good, *bad, good)
    async with harness.controlling():
        letters = await harness.letters(len(bad))
        await harness.until("many", chosen=2)
    assert [letter.value for letter in letters] == list(bad)
    assert [dict(letter.headers)["reason"].decode() for letter in letters] == list(bad.values())
    assert await harness.rows("SELECT id FROM operations WHERE did IS NULL") == [("many",)]
