"""The fetcher on real Kafka and PostgreSQL, with a scripted directory and PDS on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from consumer import backfill, metrics
from consumer.backfill import AccountAnswer, AnswerSource, Cause, IdentityAnswer, Message
from consumer.config.settings import IdentitySettings, NetworkSettings
from consumer.fetch import lookups as pool
from consumer.fetch.leasing import LeasingLoop
from consumer.fetch.role import Fetcher
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic
from consumer.scope import Scope
from consumer.store import lookups
from consumer.store.rows import LookupRequest
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running
from tests.support.proxy import TcpProxy
from tests.support.web import Reply, Web, response, web
from tests.unit.fetch.test_documents import K256, document, method, service

pytestmark = pytest.mark.services

ALICE, BOB, CAROL = (f"did:plc:{letter * 24}" for letter in "abc")


def known(did: str, pds: str) -> bytes:
    key = method() | {"id": "#atproto"}
    return response(200, document(id=did, verificationMethod=[key], service=[service(pds)]))


def status_path(did: str) -> str:
    return f"/xrpc/com.atproto.sync.getRepoStatus?did={did.replace(':', '%3A')}"


@dataclass
class FetcherHarness(Harness):
    """A scripted directory and PDS; the test starts fetchers and asks."""

    plc: Web
    pds: Web

    def fetcher(self, client: Client | None = None, *, timeout: float = 3.0) -> Fetcher:
        settings = self.deployment.settings(
            identity=IdentitySettings(plc_url=self.plc.origin, timeout=timeout),
            network=NetworkSettings(allow_loopback=True),
        )
        scope = Scope(("pub.chive.*",))
        return Fetcher(settings, client or self.client, self.topics, self.database, scope)

    async def request(self, *requests: LookupRequest) -> None:
        async with self.database.transaction() as connection:
            await lookups.request(connection, requests)

    async def open_lookups(self) -> list[tuple[Any, ...]]:
        return await self.rows(
            "SELECT did, kind, attempts, error, lease_until FROM lookups ORDER BY did"
        )

    async def none_open(self) -> bool:
        return not await self.open_lookups()

    async def answers(self) -> list[Message]:
        """Return all messages on chive.backfill, checking where they lie."""
        found = []
        for record in await self.committed(Topic.BACKFILL):
            message = backfill.decode(record.value or b"")
            assert record.key == message.did.encode()
            assert record.partition == self.topics.partition_of(message.did)
            found.append(message)
        return found


def held(answer: bytes, asked: asyncio.Event, go_on: asyncio.Event) -> Reply:
    """Set ``asked`` when a request comes, and ``answer`` it once ``go_on`` is set."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await go_on.wait()
        writer.write(answer)
        await writer.drain()

    return reply


def identity(did: str) -> LookupRequest:
    return LookupRequest(did, "identity", 0)


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[FetcherHarness]:
    async with (
        web() as plc,
        web() as pds,
        FetcherHarness.opened(deployment, Client(deployment.kafka()), plc=plc, pds=pds) as harness,
    ):
        yield harness


async def test_identities_are_resolved(harness: FetcherHarness) -> None:
    before = time.time()
    for did in (ALICE, BOB):
        harness.plc.replies[f"/{did}"] = known(did, harness.pds.origin)
    await harness.request(identity(ALICE), identity(BOB))
    async with running(harness.fetcher().run):
        await eventually(harness.none_open, what="all lookups closed", deadline=90)
    answers = await harness.answers()
    assert {a.did for a in answers} == {ALICE, BOB}
    for answer in answers:
        assert isinstance(answer, IdentityAnswer)
        assert before <= answer.fetched_at <= time.time()
        assert answer.signing_key == f"did:key:{K256}"
        assert (answer.pds, answer.handle, answer.error) == (
            harness.pds.origin,
            "alice.example",
            None,
        )


async def test_a_lookup_wakes_the_fetcher(harness: FetcherHarness) -> None:
    harness.plc.replies[f"/{ALICE}"] = known(ALICE, harness.pds.origin)
    async with running(harness.fetcher().run):
        await harness.request(identity(BOB))
        await eventually(harness.none_open, what="the first lookup closed", deadline=90)
        began = time.monotonic()
        await harness.request(identity(ALICE))
        await eventually(harness.none_open, what="the second lookup closed", deadline=90)
        assert time.monotonic() - began < pool.RULES.poll / 2  # so it did not wait for a look


async def test_a_did_without_a_document_is_answered_too(harness: FetcherHarness) -> None:
    harness.plc.replies[f"/{BOB}"] = response(410)
    harness.plc.replies[f"/{CAROL}"] = response(200, document())
    await harness.request(identity(ALICE), identity(BOB), identity(CAROL), identity("did:key:z"))
    async with running(harness.fetcher().run):
        await eventually(harness.none_open, what="all lookups closed", deadline=90)
    answers = {a.did: a for a in await harness.answers()}
    for did, said in ((ALICE, "404"), (BOB, "410"), (CAROL, "has the id")):
        answer = answers[did]
        assert isinstance(answer, IdentityAnswer)
        assert (answer.signing_key, answer.pds) == (None, None)
        assert answer.error is not None
        assert said in answer.error


async def test_a_deletion_is_confirmed_by_the_pds_of_today(harness: FetcherHarness) -> None:
    for did in (ALICE, BOB):
        harness.plc.replies[f"/{did}"] = known(did, harness.pds.origin)
    gone = json.dumps({"error": "RepoNotFound"}).encode()
    alive = json.dumps({"did": BOB, "active": True}).encode()
    harness.pds.replies[status_path(ALICE)] = response(400, gone)
    harness.pds.replies[status_path(BOB)] = response(200, alive)
    before = time.time()
    await harness.request(
        LookupRequest(ALICE, "account", 0, 2, 77), LookupRequest(BOB, "account", 0, 3, 88)
    )
    async with running(harness.fetcher().run):
        await eventually(harness.none_open, what="all lookups closed", deadline=90)
    host = harness.pds.origin.removeprefix("http://")
    answers = [a for a in await harness.answers() if isinstance(a, AccountAnswer)]
    assert all(before <= answer.asked_at <= time.time() for answer in answers)
    assert sorted((replace(a, asked_at=0.0) for a in answers), key=lambda a: a.did) == [
        AccountAnswer(
            ALICE, 2, 77, "deleted", AnswerSource.HOST, host, 0.0, Cause.FRAME, "RepoNotFound"
        ),
        AccountAnswer(BOB, 3, 88, "active", AnswerSource.HOST, host, 0.0, Cause.FRAME),
    ]


async def test_a_failing_pds_answers_nothing_and_the_lookup_stays(
    harness: FetcherHarness,
) -> None:
    harness.plc.replies[f"/{ALICE}"] = known(ALICE, harness.pds.origin)
    harness.pds.replies[status_path(ALICE)] = response(503, retry_after="3600")
    await harness.request(LookupRequest(ALICE, "account", 0, 1, 1))

    async def deferred() -> bool:
        (row,) = await harness.open_lookups()
        did, _kind, attempts, error, lease = row
        return (did, attempts, lease) == (ALICE, 0, None) and "503" in (error or "")

    async with running(harness.fetcher().run):
        await eventually(deferred, what="the lookup given back", deadline=90)
    assert await harness.answers() == []


async def test_an_answer_that_settles_nothing_counts_as_an_attempt(harness: FetcherHarness) -> None:
    harness.plc.replies[f"/{ALICE}"] = response(403)
    await harness.request(identity(ALICE))

    async def attempted() -> bool:
        (row,) = await harness.open_lookups()
        return bool(row[2] >= 2)

    async with running(harness.fetcher().run):
        await eventually(attempted, what="two attempts", deadline=90)
        harness.plc.replies[f"/{ALICE}"] = known(ALICE, harness.pds.origin)
        await eventually(harness.none_open, what="the lookup closed", deadline=90)
    assert len(await harness.answers()) == 1


async def test_the_directory_is_waited_for(harness: FetcherHarness) -> None:
    waits = {"service": "plc"}
    before = metrics.REGISTRY.get_sample_value("chive_waits_total", waits) or 0.0
    harness.plc.replies[f"/{ALICE}"] = response(500)
    await harness.request(identity(ALICE))
    async with running(harness.fetcher().run):
        await eventually(lambda: len(harness.plc.requests) >= 2, what="two requests", deadline=90)
        harness.plc.replies[f"/{ALICE}"] = known(ALICE, harness.pds.origin)
        await eventually(harness.none_open, what="the lookup closed", deadline=90)
    (answer,) = await harness.answers()
    assert isinstance(answer, IdentityAnswer)
    assert answer.error is None
    after = metrics.REGISTRY.get_sample_value("chive_waits_total", waits) or 0.0
    assert after >= before + 2


async def test_no_transaction_is_open_while_the_network_is_slow(harness: FetcherHarness) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    harness.plc.replies[f"/{ALICE}"] = held(known(ALICE, harness.pds.origin), asked, go_on)
    await harness.request(identity(ALICE))
    async with running(harness.fetcher().run):
        await asyncio.wait_for(asked.wait(), 90)

        async def none_is_open() -> bool:
            sql = """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()
                  AND state LIKE 'idle in transaction%'
            """
            async with harness.database.transaction() as connection:
                return await (await connection.execute(sql)).fetchone() == (0,)

        # Other loops of the fetcher open some, for moments: none may last as long as the answer.
        await eventually(none_is_open, what="no transaction is open")
        assert not go_on.is_set()
        go_on.set()
        await eventually(harness.none_open, what="the lookup closed", deadline=90)


async def test_hosts_that_say_nothing_hold_up_no_lookup_to_the_directory(
    harness: FetcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_SLOTS", 3)
    monkeypatch.setattr(pool, "_HOST_SLOTS", 2)
    asked, go_on = asyncio.Event(), asyncio.Event()
    slow = held(response(200, b'{"did": "x", "active": true}'), asked, go_on)
    slow_ones = [f"did:plc:{letter * 24}" for letter in "bcdefg"]
    for did in (ALICE, *slow_ones):
        harness.plc.replies[f"/{did}"] = known(did, harness.pds.origin)
        harness.pds.replies[status_path(did)] = slow
    await harness.request(*(LookupRequest(did, "account", 0, 1, 1) for did in slow_ones))

    async def two_are_asked() -> bool:
        return len(harness.pds.requests) == 2

    async def alice_is_answered() -> bool:
        return ALICE not in [did for did, *_ in await harness.open_lookups()]

    async with running(harness.fetcher(timeout=120.0).run):
        await eventually(two_are_asked, what="both slots for hosts taken", deadline=90)
        await harness.request(identity(ALICE))
        await eventually(alice_is_answered, what="the directory answered", deadline=90)
        assert len(harness.pds.requests) == 2
        go_on.set()


async def test_a_lookup_asked_again_meanwhile_is_answered_again(harness: FetcherHarness) -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()
    harness.plc.replies[f"/{ALICE}"] = held(known(ALICE, harness.pds.origin), asked, go_on)
    await harness.request(identity(ALICE))
    async with running(harness.fetcher().run):
        await asyncio.wait_for(asked.wait(), 90)
        await harness.request(identity(ALICE))
        go_on.set()
        await eventually(harness.none_open, what="the lookup closed", deadline=90)
    assert len(await harness.answers()) == 2


async def test_stopping_gives_back_what_is_not_answered(
    harness: FetcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "RULES", replace(pool.RULES, drain=0.1))
    asked = asyncio.Event()

    async def hanging(_writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(3600)

    harness.plc.replies[f"/{ALICE}"] = hanging
    await harness.request(identity(ALICE))
    async with running(harness.fetcher().run):
        await asyncio.wait_for(asked.wait(), 90)
    (row,) = await harness.open_lookups()
    assert (row[2], row[4]) == (0, None)  # no attempt, no lease: the next fetcher begins at once


async def test_a_fetcher_that_died_is_replaced_when_its_lease_ends(
    harness: FetcherHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def hanging(_writer: asyncio.StreamWriter) -> None:
        asked.set()
        await asyncio.sleep(3600)

    async def dies(loop: LeasingLoop[Any], helpers: Sequence[asyncio.Task[None]]) -> None:
        for task in [*loop._running, *helpers]:
            task.cancel()

    harness.plc.replies[f"/{ALICE}"] = hanging
    await harness.request(identity(ALICE))
    with monkeypatch.context() as patch:
        patch.setattr(LeasingLoop, "_close", dies)
        task = asyncio.create_task(harness.fetcher().run(asyncio.Event()))
        await asyncio.wait_for(asked.wait(), 90)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert (await harness.open_lookups())[0][4] is not None
    harness.plc.replies[f"/{ALICE}"] = known(ALICE, harness.pds.origin)
    async with running(harness.fetcher().run):
        await eventually(harness.none_open, what="the lookup closed", deadline=90)
    assert len(await harness.answers()) == 1


async def test_several_fetchers_share_the_lookups(harness: FetcherHarness) -> None:
    dids = [f"did:plc:{letter * 24}" for letter in "abcdefghijklmnop"]
    for did in dids:
        harness.plc.replies[f"/{did}"] = known(did, harness.pds.origin)
    async with running(harness.fetcher().run), running(harness.fetcher().run):
        await harness.request(*map(identity, dids))
        await eventually(harness.none_open, what="all lookups closed", deadline=90)
    assert sorted(a.did for a in await harness.answers()) == sorted(dids)
    assert len(harness.plc.requests) == len(dids)


async def test_kafka_away_is_waited_out(harness: FetcherHarness, kafka_proxy: TcpProxy) -> None:
    settings = harness.client.settings.model_copy(
        update={"bootstrap_servers": f"127.0.0.1:{kafka_proxy.port}", "request_timeout": 2.0}
    )
    for did in (ALICE, BOB):
        harness.plc.replies[f"/{did}"] = known(did, harness.pds.origin)
    async with running(harness.fetcher(Client(settings)).run):
        await harness.request(identity(ALICE))
        await eventually(harness.none_open, what="the first lookup closed", deadline=90)
        await kafka_proxy.stop()
        await harness.request(identity(BOB))
        await eventually(
            lambda: len(harness.plc.requests) == 2, what="the second request", deadline=90
        )
        assert kafka_proxy.cut > 0
        await kafka_proxy.start()
        await eventually(harness.none_open, what="the second lookup closed", deadline=60)
    assert {a.did for a in await harness.answers()} == {ALICE, BOB}
