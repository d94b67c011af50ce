"""The controller on a real Kafka and PostgreSQL: commands of all kinds, from anybody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from consumer.control import role
from consumer.control.role import Controller
from consumer.kafka.client import Client
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.scope import Scope
from consumer.store.database import Database
from procedures.retries import RetryPolicy
from tests.support.dead_letters import validate
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.kafka import client_of, committed, topics_of

pytestmark = pytest.mark.services

ALICE, BOB = (f"did:plc:{letter * 24}" for letter in "ab")
URI = f"at://{ALICE}/pub.chive.eprint.vote/one"


def sync(did: str, **more: Any) -> bytes:
    return orjson.dumps({"type": "didSync", "did": did, **more})


def cancel(identifier: str) -> bytes:
    return orjson.dumps({"type": "cancel", "operationId": identifier})


@dataclass
class World:
    client: Client
    topics: Topics
    database: Database

    def controller(self) -> Controller:
        return Controller(
            self.client,
            self.topics,
            self.database,
            Scope(("pub.chive.*",)),
            forget_after=60.0,
            retries=RetryPolicy(),
        )

    @asynccontextmanager
    async def controlling(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        task = asyncio.create_task(self.controller().run(stop))
        try:
            yield
            stop.set()
            await asyncio.wait_for(task, 30)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def command(self, *values: bytes | None) -> None:
        """Produce bare messages, without key or headers."""
        async with await Writer.open(self.client) as writer:
            name = self.topics.name(Topic.CONTROL)
            for value in values:
                await writer.write(OutRecord(name, 0, None, value))

    async def execute(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        async with self.database.transaction() as connection:
            await connection.execute(sql, list(parameters))

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        async with self.database.transaction() as connection:
            return await (await connection.execute(sql)).fetchall()

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
        name = self.topics.name(Topic.DEAD_LETTER)

        async def look() -> list[Record]:
            found = await committed(self.client, name)
            assert len(found) >= count
            return found

        found: list[Record] = await eventually(look, what=f"{count} dead letters", deadline=120)
        for record in found:
            validate(record)
        return found

    async def published(self) -> dict[str, dict[str, Any]]:
        """Return the newest published version of each operation."""
        records = await committed(self.client, self.topics.name(Topic.OPERATIONS), [0])
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
async def world(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(role, "_SWEEP_EVERY", 0.2)
    client, topics = client_of(deployment), topics_of(deployment)
    database = Database(deployment.postgres(), deployment.prefix)
    await asyncio.gather(database.open(), topics.ensure(client))
    yield World(client, topics, database)
    await database.close()


async def test_a_bare_line_is_served_and_published(world: World) -> None:
    async with world.controlling():
        await world.command(sync(ALICE))
        await eventually(world.published, what="it is published")
    ((identifier, found),) = (await world.published()).items()
    assert identifier.startswith("control-0-")
    assert (found["type"], found["status"], found["did"]) == ("didSync", "queued", ALICE)
    assert found["automatic"] is False
    assert await world.rows("SELECT did, lane FROM operations") == [
        (ALICE, world.topics.partition_of(ALICE))
    ]


async def test_bad_messages_are_refused_and_good_ones_between_them_served(world: World) -> None:
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
        cancel("nobody"): "command_unknown_operation",
        b" " * 20_000: "command_too_big",
        sync(ALICE, id="one"): "command_id_taken",
    }
    await world.command(sync(BOB, id="one"), *bad, sync(ALICE, id="two"))
    async with world.controlling():
        letters = await world.dead_letters(len(bad))
        await world.having(one="queued", two="queued")
    assert [letter.value for letter in letters] == list(bad)
    for place, (letter, reason) in enumerate(zip(letters, bad.values(), strict=True), start=1):
        headers = dict(letter.headers)
        assert headers["reason"] == reason.encode()
        assert headers["source"] == f"{world.topics.name(Topic.CONTROL)}/0/{place}".encode()
        assert headers["detail"]


async def test_thousands_of_bad_messages_do_not_end_the_loop(world: World) -> None:
    count = 3_000
    await asyncio.gather(*[world.command(*[b"nonsense"] * (count // 10)) for _ in range(10)])
    await world.command(sync(ALICE, id="after"))
    async with world.controlling():
        await world.having(after="queued")
        assert len(await world.dead_letters(count)) == count


async def test_the_same_command_twice_is_one_operation(world: World) -> None:
    await world.command(sync(ALICE, id="one"), sync(ALICE, id="one"), sync(BOB, id="two"))
    async with world.controlling():
        await world.having(one="queued", two="queued")


async def test_a_refresh_of_what_is_not_wanted_fails_and_says_so(world: World) -> None:
    other = f"at://{ALICE}/app.bsky.feed.post/one"
    await world.command(
        orjson.dumps({"type": "recordRefresh", "uri": other, "id": "no"}),
        orjson.dumps({"type": "recordRefresh", "uri": URI, "id": "yes"}),
    )
    async with world.controlling():
        await world.having(no="failed", yes="queued")
    ((failure, error),) = await world.rows("SELECT failure, error FROM operations WHERE id = 'no'")
    assert failure == "OutOfScope"
    assert "app.bsky.feed.post" in error
    assert "pub.chive.*" in error


async def test_those_who_ask_for_the_same_are_answered_through_one(world: World) -> None:
    await world.command(sync(ALICE, id="one"), sync(ALICE, id="two"), sync(ALICE, id="three"))
    async with world.controlling():
        await world.having(one="queued", two="queued", three="queued")
        await world.execute(
            "UPDATE operations SET status = 'running', phase = 'downloading', attempts = 1,"
            " started_at = now(), lease_until = now() + interval '1 hour', version = version + 1"
            " WHERE id = 'one'"
        )

        async def seen() -> bool:
            found = await world.published()
            return [found[name]["status"] for name in ("one", "two", "three")] == ["running"] * 3

        await eventually(seen, what="all run")
        await world.execute(
            "UPDATE operations SET status = 'completed', phase = 'applied', created = 7,"
            " completed_at = now(), version = version + 1 WHERE id = 'one'"
        )
        await world.having(one="completed", two="completed", three="completed")

        async def ended() -> bool:
            found = await world.published()
            return [found[name]["created"] for name in ("one", "two", "three")] == [7] * 3

        await eventually(ended, what="all are answered")


async def test_a_cancel_hands_the_work_to_the_heir(world: World) -> None:
    # Commands of the same millisecond are in the order of their ids.
    await world.command(*[sync(ALICE, id=name) for name in ("a", "b", "c")], cancel("a"))
    async with world.controlling():
        await world.having(a="cancelled", b="queued", c="queued")
    assert await world.rows("SELECT id, same_as FROM operations ORDER BY id") == [
        ("a", None),
        ("b", None),
        ("c", "b"),
    ]


async def test_a_cancelled_sync_of_a_repo_that_needs_one_comes_again_later(world: World) -> None:
    await world.execute(
        "INSERT INTO repos (did, lane, sync_state, reason) VALUES (%s, 0, 'desynchronized',"
        " 'broken_chain')",
        [ALICE],
    )
    await world.command(sync(ALICE, id="one"), cancel("one"))
    async with world.controlling():

        async def looked() -> bool:
            return (await world.statuses()).get("one") == "cancelled"

        await eventually(looked, what="it is cancelled")
    ((automatic, reason, later),) = await world.rows(
        "SELECT automatic, reason, run_after > now() FROM operations WHERE id <> 'one'"
    )
    assert (automatic, reason, later) == (True, "broken_chain", True)


async def test_two_controllers_do_everything_once(world: World) -> None:
    async with world.controlling(), world.controlling():
        for number in range(20):
            await world.command(sync(f"did:web:n{number}.example", id=f"id{number}"), b"bad")
        await world.having(**{f"id{number}": "queued" for number in range(20)})
        assert len(await world.dead_letters(20)) == 20


async def test_sweeps(world: World) -> None:
    await world.execute(
        "INSERT INTO repos (did, lane, sync_state, reason) VALUES"
        " ('did:web:forgotten.example', 0, 'desynchronized', 'loss_window')"
    )
    await world.execute(
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
        await world.execute(operation, row)
    async with world.controlling():

        async def swept() -> bool:
            found = await world.statuses()
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
