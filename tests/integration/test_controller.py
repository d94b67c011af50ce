"""The controller on a real Kafka and PostgreSQL: commands of all kinds, valid and not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from consumer.control import role
from consumer.control.role import Controller
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from procedures.retries import RetryPolicy
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running

pytestmark = pytest.mark.services

ALICE, BOB = (f"did:plc:{letter * 24}" for letter in "ab")
URI = f"at://{ALICE}/pub.chive.graph.vote/one"


def sync(did: str, **more: Any) -> bytes:
    return orjson.dumps({"type": "didSync", "did": did, **more})


def cancel(identifier: str) -> bytes:
    return orjson.dumps({"type": "cancel", "operationId": identifier})


class ControllerHarness(Harness):
    """A controller that the test starts and commands."""

    def controller(self) -> Controller:
        return Controller(
            self.client,
            self.topics,
            self.database,
            Publisher(self.client, self.topics, self.database),
            Scope(("pub.chive.*",)),
            forget_after=60.0,
            retries=RetryPolicy(),
        )

    @asynccontextmanager
    async def controlling(self) -> AsyncIterator[None]:
        async with running(self.controller().run):
            yield

    async def command(self, *values: bytes | None) -> None:
        """Produce bare messages, without key or headers."""
        await self.write(Topic.CONTROL, *values)

    async def statuses(self) -> dict[str, str]:
        return dict(await self.rows("SELECT id, status FROM operations"))

    async def having(self, **expected: str) -> None:
        """Wait until the operations are exactly these, by id and status."""

        async def look() -> bool:
            found = await self.statuses()
            assert found == expected
            return True

        await eventually(look, what=f"operations {expected}", deadline=60)

    async def dead_letters(self, count: int) -> list[Record]:
        async def look() -> list[Record]:
            found = await self.committed(Topic.DEAD_LETTER)
            assert len(found) >= count
            return found

        found: list[Record] = await eventually(look, what=f"{count} dead letters", deadline=120)
        for record in found:
            validate(record)
        return found

    async def published(self) -> dict[str, dict[str, Any]]:
        """Return the newest published version of each operation."""
        records = await self.committed(Topic.OPERATIONS)
        newest: dict[str, dict[str, Any]] = {}
        for record in records:
            assert record.key is not None
            if record.value is None:
                newest.pop(record.key.decode(), None)
                continue
            operation = orjson.loads(record.value)
            assert operation["version"] >= newest.get(operation["id"], operation)["version"]
            newest[operation["id"]] = operation
        return newest


@pytest.fixture
async def harness(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ControllerHarness]:
    monkeypatch.setattr(role, "_SWEEP_EVERY", 0.2)
    async with ControllerHarness.opened(deployment) as harness:
        yield harness


async def test_a_bare_line_is_served_and_published(harness: ControllerHarness) -> None:
    async with harness.controlling():
        await harness.command(sync(ALICE))
        await eventually(harness.published, what="it is published")
    ((identifier, found),) = (await harness.published()).items()
    assert identifier.startswith("control-0-")
    assert (found["type"], found["status"], found["did"]) == ("didSync", "queued", ALICE)
    assert found["automatic"] is False
    assert await harness.rows("SELECT did, lane FROM operations") == [
        (ALICE, harness.topics.partition_of(ALICE))
    ]


async def test_bad_messages_are_refused_and_good_ones_between_them_served(
    harness: ControllerHarness,
) -> None:
    bad = {
        b"{": "command_not_json",
        b"[]": "command_not_object",
        b'{"type":"x"}': "command_unknown_type",
        b'{"v":2,"type":"didSync","did":"did:plc:a"}': "command_unknown_version",
        sync("did:plc:"): "command_invalid_did",
        b'{"type":"recordRefresh","uri":"at://x"}': "command_invalid_uri",
        b'{"type":"didSync"}': "command_missing_field",
        sync(ALICE, emitt="all"): "command_unknown_field",
        b'{"type":"didSync","type":"cancel"}': "command_duplicate_key",
        cancel("unknown"): "command_unknown_operation",
        b" " * 20_000: "command_too_big",
        sync(ALICE, id="one"): "command_id_taken",
    }
    await harness.command(sync(BOB, id="one"), *bad, sync(ALICE, id="two"))
    async with harness.controlling():
        letters = await harness.dead_letters(len(bad))
        await harness.having(one="queued", two="queued")
    assert [letter.value for letter in letters] == list(bad)
    for place, (letter, reason) in enumerate(zip(letters, bad.values(), strict=True), start=1):
        headers = dict(letter.headers)
        assert headers["reason"] == reason.encode()
        assert headers["source"] == f"{harness.topics.name(Topic.CONTROL)}/0/{place}".encode()
        assert headers["detail"]


async def test_thousands_of_bad_messages_do_not_end_the_loop(harness: ControllerHarness) -> None:
    count = 3_000
    await asyncio.gather(*[harness.command(*[b"nonsense"] * (count // 10)) for _ in range(10)])
    await harness.command(sync(ALICE, id="after"))
    async with harness.controlling():
        await harness.having(after="queued")
        assert len(await harness.dead_letters(count)) == count


async def test_the_same_command_twice_is_one_operation(harness: ControllerHarness) -> None:
    await harness.command(sync(ALICE, id="one"), sync(ALICE, id="one"), sync(BOB, id="two"))
    async with harness.controlling():
        await harness.having(one="queued", two="queued")


async def test_a_refresh_of_what_is_not_wanted_fails_and_says_so(
    harness: ControllerHarness,
) -> None:
    other = f"at://{ALICE}/app.bsky.feed.post/one"
    await harness.command(
        orjson.dumps({"type": "recordRefresh", "uri": other, "id": "no"}),
        orjson.dumps({"type": "recordRefresh", "uri": URI, "id": "yes"}),
    )
    async with harness.controlling():
        await harness.having(no="failed", yes="queued")
    ((failure, error),) = await harness.rows(
        "SELECT failure, error FROM operations WHERE id = 'no'"
    )
    assert failure == "OutOfScope"
    assert "app.bsky.feed.post" in error
    assert "pub.chive.*" in error


async def test_those_who_ask_for_the_same_are_answered_through_one(
    harness: ControllerHarness,
) -> None:
    await harness.command(sync(ALICE, id="one"), sync(ALICE, id="two"), sync(ALICE, id="three"))
    async with harness.controlling():
        await harness.having(one="queued", two="queued", three="queued")
        await harness.execute(
            "UPDATE operations SET status = 'running', phase = 'downloading', attempts = 1,"
            " started_at = now(), lease_until = now() + interval '1 hour', version = version + 1"
            " WHERE id = 'one'"
        )

        async def seen() -> bool:
            found = await harness.published()
            return [found[name]["status"] for name in ("one", "two", "three")] == ["running"] * 3

        await eventually(seen, what="all run")
        await harness.execute(
            "UPDATE operations SET status = 'completed', phase = 'applied', created = 7,"
            " completed_at = now(), version = version + 1 WHERE id = 'one'"
        )
        await harness.having(one="completed", two="completed", three="completed")

        async def ended() -> bool:
            found = await harness.published()
            return [found[name]["created"] for name in ("one", "two", "three")] == [7] * 3

        await eventually(ended, what="all are answered")


async def test_a_cancel_hands_the_work_to_the_heir(harness: ControllerHarness) -> None:
    # Commands of the same millisecond are in the order of their ids.
    await harness.command(*[sync(ALICE, id=name) for name in ("a", "b", "c")], cancel("a"))
    async with harness.controlling():
        await harness.having(a="cancelled", b="queued", c="queued")
    assert await harness.rows("SELECT id, same_as FROM operations ORDER BY id") == [
        ("a", None),
        ("b", None),
        ("c", "b"),
    ]


async def test_a_cancelled_sync_of_a_repo_that_needs_one_comes_again_later(
    harness: ControllerHarness,
) -> None:
    await harness.execute(
        "INSERT INTO repos (did, lane, sync_state, reason) VALUES (%s, 0, 'desynchronized',"
        " 'broken_chain')",
        [ALICE],
    )
    await harness.command(sync(ALICE, id="one"), cancel("one"))
    async with harness.controlling():

        async def looked() -> bool:
            return (await harness.statuses()).get("one") == "cancelled"

        await eventually(looked, what="it is cancelled")
    ((automatic, reason, later),) = await harness.rows(
        "SELECT automatic, reason, run_after > now() FROM operations WHERE id <> 'one'"
    )
    assert (automatic, reason, later) == (True, "broken_chain", True)


async def test_two_controllers_do_everything_once(harness: ControllerHarness) -> None:
    async with harness.controlling(), harness.controlling():
        for number in range(20):
            await harness.command(sync(f"did:web:n{number}.example", id=f"id{number}"), b"bad")
        await harness.having(**{f"id{number}": "queued" for number in range(20)})
        assert len(await harness.dead_letters(20)) == 20


async def test_sweeps(harness: ControllerHarness) -> None:
    await harness.execute(
        "INSERT INTO repos (did, lane, sync_state, reason) VALUES"
        " ('did:web:forgotten.example', 0, 'desynchronized', 'loss_window')"
    )
    await harness.execute(
        "INSERT INTO lanes (lane, token, backfill_offset) VALUES (0,"
        " '00000000-0000-0000-0000-000000000000', 10)"
    )
    operation = (
        "INSERT INTO operations (id, type, did, lane, automatic, status, phase, lease_until,"
        " injected_offset, completed_at) VALUES (%s, 'didSync', %s, 0, %s, %s, %s,"
        " now() + make_interval(secs => %s), %s, now() - make_interval(secs => %s))"
    )
    for row in (
        ("lost", "did:web:a.example", False, "running", "downloading", -1, None, None),
        ("kept", "did:web:b.example", False, "running", "downloading", 60, None, None),
        ("passed", "did:web:c.example", True, "running", "injected", None, 10, None),
        ("waits", "did:web:d.example", False, "running", "injected", None, 11, None),
        ("old", "did:web:e.example", False, "completed", "applied", None, None, 61),
        ("new", "did:web:f.example", False, "completed", "applied", None, None, 1),
    ):
        await harness.execute(operation, row)
    async with harness.controlling():

        async def swept() -> bool:
            found = await harness.statuses()
            repaired = [one for one in found if len(one) > 10]  # they have ids of their own
            assert [found.pop(one) for one in repaired] == ["queued"]
            return found == {
                "lost": "queued",
                "kept": "running",
                "passed": "queued",
                "waits": "running",
                "new": "completed",
            }

        await eventually(swept, what="everything is swept")
