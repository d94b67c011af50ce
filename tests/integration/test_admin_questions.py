"""What administrators ask the gateway: dead letters of real topics, and the firehose's cursor."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from consumer.gateway import letters
from consumer.gateway.firehose import StoredFirehose
from consumer.gateway.letters import StoredLetters
from consumer.kafka.topics import Topic
from consumer.store import status
from procedures.client import Unavailable
from procedures.firehose_status import FirehoseState
from tests.integration.calling import CALLER, Caller, calling
from tests.support.eventually import eventually
from tests.support.operating import Stage, truth

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


async def listed(caller: Caller, count: int, **params: Any) -> list[dict[str, Any]]:
    """Return the entries, as soon as there are ``count`` letters."""

    async def look() -> dict[str, Any] | None:
        page: dict[str, Any] = await caller.got("admin.listDLQEntries", **params)
        return page if page["total"] == count else None

    page = await eventually(look, what=f"{count} letters are listed", deadline=60)
    entries: list[dict[str, Any]] = page["entries"]
    return entries


async def test_a_refused_frame_is_listed_and_its_account_synced(stage: Stage) -> None:
    repo, harness = stage.pds.account("alice", records=3), stage.harness
    did = repo.account.did
    async with stage.fetching(), calling(harness) as caller:
        assert await listed(caller, 0) == []
        await harness.send([harness.record(b"\xffno frame", did, 7)])
        (frame,) = await listed(caller, 1)
        await harness.write(Topic.CONTROL, b"no command")
        entries = await listed(caller, 2)
        assert [each["errorType"] for each in entries] == ["command_not_json", "frame_malformed"]
        assert entries[1] == frame
        assert (frame["did"], frame["retryCount"]) == (did, 0)
        ((_, letter),) = [each for each in await harness.dead_letters() if each[1].key]
        assert frame["id"] == f"{letter.partition}/{letter.offset}"
        assert (await listed(caller, 2, offset=1, limit=1)) == [frame]

        answer = await caller.posted("admin.retryDLQEntry", index=1)
        assert answer["success"]
        (done,) = await stage.until(answer["operationId"])
        assert (done["did"], done["requested_by"]) == (did, CALLER)
        assert (await stage.index(repo)).keys() == truth(repo)
        answer = await caller.posted("admin.retryDLQEntry", id=frame["id"])
        await stage.until(answer["operationId"])
        assert not (await caller.posted("admin.retryDLQEntry", index=0))["success"]
        assert len(await listed(caller, 2)) == 2, "what is tried again is not refused again"


async def test_the_newest_of_very_many_are_listed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness = stage.harness
    monkeypatch.setattr(letters, "_WINDOWS", (2, 5, 50))
    for number in range(10):  # a transaction each, with its marker
        await harness.write(Topic.CONTROL, b"%d no command" % number)

    async def all_refused() -> bool:
        return len(await harness.dead_letters()) == 10

    await eventually(all_refused, what="every one is refused", deadline=60)
    refused = [f"{each.partition}/{each.offset}" for _, each in await harness.dead_letters()]
    found = await StoredLetters(harness.client, harness.topics).newest()
    assert {each.id for each in found} == set(refused)
    assert [each.created for each in found] == sorted((e.created for e in found), reverse=True)
    # Where letters are large, fewer are read.
    monkeypatch.setattr(letters, "_BYTES", 0)
    fewer = await StoredLetters(harness.client, harness.topics).newest()
    assert {each.id for each in fewer} < set(refused)
    newest = max(refused, key=lambda each: int(each.partition("/")[2]))
    assert len(fewer) <= 2 * harness.topics.partitions
    assert not fewer or fewer[0].id == newest


async def test_what_was_read_serves_for_a_while(stage: Stage) -> None:
    harness = stage.harness
    kept = StoredLetters(harness.client, harness.topics, kept=3_600.0)
    assert list(await kept.newest()) == []
    await harness.write(Topic.CONTROL, b"no command")
    async with calling(harness) as caller:
        await listed(caller, 1)
    assert list(await kept.newest()) == []


async def test_topics_that_cannot_be_read_are_unavailable(stage: Stage) -> None:
    elsewhere = stage.harness.deployment.settings(kafka={"topic_prefix": "nowhere."})
    topics = type(stage.harness.topics).of(elsewhere.kafka)
    with pytest.raises(Unavailable):
        await StoredLetters(stage.harness.client, topics).newest()


async def test_how_far_the_firehose_was_read(stage: Stage) -> None:
    database = stage.harness.database
    firehose = StoredFirehose(database)
    assert await firehose.state(time.time()) == FirehoseState()
    relay, moment = "wss://relay.example", datetime(2026, 5, 1, tzinfo=UTC)
    async with database.transaction() as connection:
        await status.mirror_cursor(connection, "wss://before.example", 3, None, 1)
        await status.mirror_cursor(connection, relay, 41, moment, 2)
        await status.note_connection(connection, relay, moment, connected=True, reason="")
    now = time.time()
    at = moment.timestamp()
    assert await firehose.state(now) == FirehoseState(41, at, relay, connected=True, since=at)
    silent = await firehose.state(now + 3_600)
    assert not silent.connected
    assert "no tailer has reported" in (silent.reason or "")
    async with calling(stage.harness) as caller:
        seen = await caller.got("admin.getFirehoseStatus")
    assert (seen["cursor"], seen["connected"], seen["dlqCount"]) == (41, True, 0)
