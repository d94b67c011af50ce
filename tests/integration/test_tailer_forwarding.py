"""Which frames the tailer forwards, and what it needs to know for that."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from consumer.tail import tailer as module
from simulator.frames import frame
from tests.integration.tailing import TailerHarness, attempts_in_vain
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import assert_chained, numbered
from tests.support.harness import running
from tests.support.relay import ScriptedRelay

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[TailerHarness]:
    async with (
        ScriptedRelay() as relay,
        TailerHarness.opened(deployment, relay=relay) as harness,
    ):
        yield harness


def commit(seq: int, did: str, path: str) -> tuple[int, bytes]:
    ops = [{"action": "create", "path": path, "cid": None}]
    body = {"seq": seq, "repo": did, "time": "2025-01-01T00:00:00Z", "ops": ops}
    return seq, frame("#commit", body)


WANTED, UNWANTED = "pub.chive.eprint.submission/3k", "app.bsky.feed.post/3k"


async def test_only_what_matters_is_forwarded(harness: TailerHarness) -> None:
    harness.tracked = {"did:plc:known"}
    harness.relay.log = [
        commit(1, "did:plc:a", UNWANTED),
        commit(2, "did:plc:a", WANTED),
        commit(3, "did:plc:a", UNWANTED),
        commit(4, "did:plc:b", UNWANTED),
        commit(5, "did:plc:known", UNWANTED),
        commit(6, "did:plc:b", UNWANTED),
    ]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(6)
    found = await harness.forwarded()
    assert sorted(record.seq for record in found) == [2, 3, 5]
    assert_chained(found)


async def test_repositories_that_join_by_a_sync_are_forwarded_from_then_on(
    harness: TailerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_JOIN_EVERY", 0.05)
    harness.relay.log = [commit(1, "did:plc:a", UNWANTED)]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1)
        assert await harness.forwarded() == []
        harness.joined = {"did:plc:a"}
        seq = 1

        async def seen() -> list[int]:
            nonlocal seq
            seq += 1
            await harness.relay.publish([commit(seq, "did:plc:a", UNWANTED)])
            return [record.seq for record in await harness.forwarded()]

        first = (await eventually(seen, what="its commits are forwarded"))[0]
        await harness.reached(seq)
    found = await harness.forwarded()
    assert [record.seq for record in found] == list(range(first, seq + 1))
    assert_chained(found)


async def test_the_tracked_set_is_found_again_in_what_workers_have_not_read(
    harness: TailerHarness,
) -> None:
    joined, other = "did:plc:joined", "did:plc:other"
    harness.relay.log = [commit(1, joined, WANTED)]
    async with running(harness.tailer(start="oldest").run):
        await harness.reached(1)
    await harness.relay.publish([commit(2, joined, UNWANTED), commit(3, other, UNWANTED)])
    async with running(harness.tailer().run):
        await harness.reached(3)
    assert [r.seq for r in await harness.forwarded()] == [1, 2]

    # Behind the workers' positions the topic says nothing: what counts is what they know.
    harness.consumed = dict.fromkeys(range(harness.topics.partitions), 10**9)
    await harness.relay.publish([commit(4, joined, UNWANTED)])
    async with running(harness.tailer().run):
        await harness.reached(4)
    assert [r.seq for r in await harness.forwarded()] == [1, 2]


async def test_forwarding_all_needs_no_store(harness: TailerHarness) -> None:
    harness.store_away = True
    harness.relay.log = [commit(1, "did:plc:a", UNWANTED)]
    async with running(harness.tailer(start="oldest", forward="all").run):
        await harness.reached(1)
    assert len(await harness.forwarded()) == 1


async def test_postgres_away_is_waited_out(harness: TailerHarness) -> None:
    harness.store_away = True
    harness.relay.log = list(numbered(1, 10))
    async with running(harness.tailer(start="oldest").run):
        await attempts_in_vain(2)
        assert harness.relay.cursors == []
        harness.store_away = False
        await harness.reached(10)
