"""Accounts whose frames are lost or wrong: worker and fetcher on real Kafka and PostgreSQL.

The directory and the host are scripted, on loopback.  Each story ends with the table equal to the
fold of the topic, equal to what the host holds; the questions to the host are counted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest

from consumer.backfill import Cause
from consumer.config.retries import RetrySettings
from consumer.config.settings import AccountSettings, IdentitySettings, NetworkSettings, Settings
from consumer.fetch.role import Fetcher
from consumer.kafka.client import Client
from consumer.kafka.transaction import TransactionalProducer
from consumer.scope import Scope
from consumer.store import answers, lookups
from consumer.store.operations import read, write
from procedures import operations
from procedures.failures import Failure
from procedures.operations import Operation, Type
from procedures.syntax import cid_text
from simulator.frames import account_frame, commit_frame
from simulator.repo import Repo, Write
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.hosts import Host
from tests.support.pds import COLLECTION
from tests.support.web import response, web
from tests.support.worker import RELAY, Table, WorkerHarness

pytestmark = pytest.mark.services

CONFIRM = 2.0  # seconds
OTHER_RELAY = "wss://other-relay.test"

GONE = [
    pytest.param(400, {"error": "RepoNotFound"}, id="RepoNotFound"),
    pytest.param(400, {"error": "NotFound", "message": "Repo not found"}, id="NotFound"),
    pytest.param(
        400,
        {"error": "InvalidRequest", "message": "Could not find repo for DID: did:plc:x"},
        id="InvalidRequest",
    ),
]
INACTIVE = [("RepoDeactivated", "deactivated"), ("RepoTakendown", "takendown")]
INACTIVE += [("RepoSuspended", "suspended"), ("AccountDeactivated", "deactivated")]


class Stage:
    """Worker and fetcher of one deployment before the scripted host."""

    def __init__(self, harness: WorkerHarness, host: Host) -> None:
        self.harness = harness
        self.host = host
        self.seq = 100

    def settings(self, *, share: float = 1.0, every: float = CONFIRM) -> Settings:
        return self.harness.deployment.settings(
            identity=IdentitySettings(plc_url=self.host.directory.origin, timeout=3.0),
            network=NetworkSettings(allow_loopback=True),
            accounts=AccountSettings(
                ask_every=every, deletion_confirm_after=CONFIRM, deletion_share=share
            ),
            retries=RetrySettings(
                automatic_first=0.5, asked_for_first=0.2, renewal_first=1.0, throttle_free=100
            ),
        )

    @asynccontextmanager
    async def running(self, **values: float) -> AsyncIterator[None]:
        settings = self.settings(**values)
        scope, client = Scope(settings.scope.collections), self.harness.client
        fetcher = Fetcher(settings, client, self.harness.topics, self.harness.database, scope)
        async with self.harness.working(settings), running(fetcher.run):
            yield

    async def commit(self, repo: Repo, *, lost: bool = False) -> None:
        """Write one more record; if ``lost``, no frame tells of it."""
        self.seq += 1
        path = f"{COLLECTION}/n{self.seq}"
        commit = repo.commit([Write("create", path, {"$type": COLLECTION, "n": self.seq})])
        if not lost:
            await self.harness.publish([commit_frame(self.seq, commit)])

    async def says(self, repo: Repo, status: str | None, relay: str = RELAY) -> None:
        """Publish an ``#account`` frame; None is active."""
        self.seq += 1
        did = repo.account.did
        frame = account_frame(self.seq, did, active=status is None, status=status)
        record = self.harness.record(frame, did, self.seq)
        headers = tuple((k, relay.encode() if k == "relay" else v) for k, v in record.headers)
        await self.harness.send([record._replace(headers=headers)])

    async def indexed(self, repo: Repo) -> None:
        """Bring the account into the index, in step with its host."""
        await self.commit(repo)
        await self.in_step(repo)

    def lane(self, repo: Repo) -> int:
        return self.harness.topics.partition_of(repo.account.did)

    async def repo(self, repo: Repo) -> tuple[str, str]:
        rows = await self.harness.rows(
            "SELECT status, sync_state FROM repos WHERE did = %s", [repo.account.did]
        )
        return rows[0] if rows else ("", "")

    async def in_step(self, repo: Repo) -> None:
        """Wait until table and fold are what the host holds, and the repo is active."""
        did = repo.account.did
        wanted = {
            path: cid_text(cid) for path, (_, cid) in repo.records.items() if COLLECTION in path
        }

        async def reached() -> bool:
            if await self.repo(repo) != ("active", "active"):
                return False
            return (await self.harness.stored()).get(did) == wanted

        await eventually(reached, what="the repo is in step", deadline=90)
        await self.folded(did, wanted)

    async def status(self, repo: Repo, status: str) -> None:
        async def reached() -> bool:
            return (await self.repo(repo))[0] == status

        await eventually(reached, what=f"the account is {status}", deadline=90)

    async def deleted(self, repo: Repo) -> None:
        await self.status(repo, "deleted")
        assert repo.account.did not in await self.harness.stored()
        await self.folded(repo.account.did, {})

    async def folded(self, did: str, wanted: dict[str, str]) -> None:
        async def reached() -> bool:
            folded: Table = await self.harness.folded()
            return folded.get(did, {}) == wanted

        await eventually(reached, what="the fold is the table", deadline=60)

    async def kept(self, repo: Repo, seconds: float, *, before_answer: int | None = None) -> None:
        """Check for ``seconds`` that no record of the account goes.

        ``before_answer``: only until the host is asked for this answer.
        """
        before = (await self.harness.stored()).get(repo.account.did)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            stored = (await self.harness.stored()).get(repo.account.did)
            if before_answer is not None and self.host.asked(repo) >= before_answer:
                return
            assert stored == before
            assert stored
            await asyncio.sleep(0.2)

    async def ask(self, cause: Cause, *repos: Repo, times: int = 1) -> None:
        """Raise questions in one transaction, so that none of them can be answered in between."""
        async with self.harness.database.transaction() as connection:
            rules = self.settings().accounts.rules()
            for _ in range(times):
                await lookups.ask(connection, [each.account.did for each in repos], cause, rules)

    async def person_syncs(self, repo: Repo) -> str:
        """Queue a sync as the controller does when a person asks; return its id."""
        name, did = f"person-{uuid4().hex[:8]}", repo.account.did
        lane = self.harness.topics.partition_of(did)
        operation = operations.queued(
            name, Type.DID_SYNC, did, time.time() - 1, requested_by="did:plc:admin"
        )
        async with self.harness.database.transaction() as connection:
            await write.insert(connection, operation, lane)
        return name

    async def ended(self, name: str) -> Operation:
        async def read_it() -> Operation:
            async with self.harness.database.transaction() as connection:
                found = await read.read(connection, name)
            assert found is not None
            return found

        async def has_ended() -> bool:
            return (await read_it()).ended

        await eventually(has_ended, what="the operation has ended", deadline=90)
        return await read_it()


@asynccontextmanager
async def staged(deployment: Deployment) -> AsyncIterator[Stage]:
    """Prepare a directory, a host and a deployment during the block."""
    client = Client(deployment.kafka())
    async with (
        web() as directory,
        web() as site,
        await TransactionalProducer.open(client, "test-relay") as relay,
        await TransactionalProducer.open(client, "test-fetcher") as fetcher,
        WorkerHarness.opened(deployment, client, relay=relay, fetcher=fetcher) as harness,
    ):
        yield Stage(harness, Host(directory, site))


@pytest.fixture
async def stage(deployment: Deployment) -> AsyncIterator[Stage]:
    async with staged(deployment) as stage:
        yield stage


# -- a reactivation that was lost -------------------------------------------------------------


async def test_a_commit_of_an_inactive_account_asks_and_brings_it_back(stage: Stage) -> None:
    repo = stage.host.account("returned")
    async with stage.running():
        await stage.indexed(repo)
        await stage.says(repo, "deactivated")
        await stage.status(repo, "deactivated")
        await stage.commit(repo, lost=True)  # what it signs before we hear of it again
        await stage.commit(repo)
        await stage.in_step(repo)
        assert stage.host.asked(repo) == 1


async def test_a_loss_window_asks_about_inactive_accounts(stage: Stage) -> None:
    repo, other = stage.host.account("lost in between"), stage.host.account("other")
    while stage.lane(other) != stage.lane(repo):
        other = stage.host.account(other.account.did)
    async with stage.running():
        await stage.indexed(repo)
        await stage.says(repo, "deactivated")
        await stage.status(repo, "deactivated")
        await stage.commit(repo, lost=True)
        stage.harness.new_epoch()
        await stage.commit(other)  # of the same lane
        await stage.in_step(repo)


@pytest.mark.parametrize("status", ["throttled", "desynchronized"])
async def test_other_statuses_end_the_same_way(stage: Stage, status: str) -> None:
    repo = stage.host.account(status)
    async with stage.running():
        await stage.indexed(repo)
        await stage.says(repo, status)
        await stage.status(repo, status)
        await stage.commit(repo)
        await stage.in_step(repo)


async def test_a_persons_sync_of_an_inactive_account_asks_first(stage: Stage) -> None:
    repo = stage.host.account("asked for")
    async with stage.running():
        await stage.indexed(repo)
        stage.host.states(repo, "deactivated")
        await stage.says(repo, "deactivated")
        await stage.status(repo, "deactivated")
        downloads = stage.host.downloads(repo)
        failed = await stage.ended(await stage.person_syncs(repo))
        assert failed.failure is Failure.ACCOUNT_INACTIVE
        assert "said deactivated" in (failed.error or "")
        assert stage.host.downloads(repo) == downloads
        stage.host.states(repo, "active")
        await stage.commit(repo, lost=True)
        await asyncio.sleep(CONFIRM)  # ask_every
        done = await stage.ended(await stage.person_syncs(repo))
        assert done.failure is None
        await stage.in_step(repo)


async def test_a_relays_own_takedown_is_the_relays(stage: Stage) -> None:
    repo = stage.host.account("measure")
    async with stage.running():
        await stage.indexed(repo)
        await stage.says(repo, "takendown")
        await stage.status(repo, "takendown")
        await stage.ask(Cause.LISTING, repo)
        await eventually(lambda: stage.host.asked(repo) == 1, what="one question", deadline=60)
        await asyncio.sleep(1.0)
        assert (await stage.repo(repo))[0] == "takendown"
        await stage.commit(repo)  # from that relay: it carries the account again
        await stage.in_step(repo)


async def test_another_relays_replay_raises_the_question_and_no_verdict(stage: Stage) -> None:
    repo = stage.host.account("replayed")
    async with stage.running():
        await stage.indexed(repo)
        await stage.says(repo, "deactivated")
        await stage.status(repo, "deactivated")
        await stage.says(repo, None)
        await stage.in_step(repo)
        await stage.says(repo, "deactivated", OTHER_RELAY)
        await eventually(lambda: stage.host.asked(repo) == 1, what="one question", deadline=60)
        await stage.harness.settled()
        statuses = [
            event["status"] for event in await stage.harness.events() if event["type"] == "account"
        ]
        assert statuses == ["deactivated", "active"]
        await stage.in_step(repo)


# -- an account that went without a frame -----------------------------------------------------


@pytest.mark.parametrize(("status", "body"), GONE)
async def test_a_host_alone_deletes_when_it_says_so_twice(
    stage: Stage, status: int, body: dict[str, Any]
) -> None:
    repo = stage.host.account(str(body))
    async with stage.running():
        await stage.indexed(repo)
        stage.host.refuses(repo, status, body)
        stage.host.answers(repo, status, body)
        await stage.commit(repo, lost=True)
        await stage.commit(repo)  # the chain is broken: the sync is refused
        await eventually(lambda: stage.host.asked(repo) == 1, what="one question", deadline=60)
        await stage.kept(repo, CONFIRM / 2, before_answer=2)
        await stage.deleted(repo)
        assert stage.host.asked(repo) == 2


@pytest.mark.parametrize(("name", "status"), INACTIVE)
async def test_a_refusal_by_name_becomes_the_status(stage: Stage, name: str, status: str) -> None:
    repo = stage.host.account(name)
    async with stage.running():
        await stage.indexed(repo)
        stage.host.refuses(repo, 400, {"error": name})
        stage.host.states(repo, status)
        await stage.commit(repo, lost=True)
        await stage.commit(repo)
        await stage.status(repo, status)
        await stage.kept(repo, 1.0)
        assert stage.host.asked(repo) == 1


async def test_the_directorys_tombstone_deletes_at_once(stage: Stage) -> None:
    repo = stage.host.account("tombstone")
    async with stage.running():
        await stage.indexed(repo)
        stage.host.directory.replies[f"/{repo.account.did}"] = response(410)
        await stage.commit(repo, lost=True)
        await stage.commit(repo)
        await stage.deleted(repo)
        assert stage.host.asked(repo) == 0


async def test_a_listing_that_says_otherwise_asks_the_host(stage: Stage) -> None:
    repo = stage.host.account("listed")
    async with stage.running():
        await stage.indexed(repo)
        stage.host.states(repo, "deactivated")
        await stage.ask(Cause.LISTING, repo)
        await stage.status(repo, "deactivated")
        stage.host.states(repo, "active")
        await stage.ask(Cause.LISTING, repo)
        await stage.in_step(repo)
        assert stage.host.asked(repo) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [(400, {"error": "NotFound", "message": "Repo not found"}), (500, {}), (400, {"error": "Odd"})],
)
async def test_what_getrepo_says_deletes_nothing_while_the_host_has_the_account(
    stage: Stage, status: int, body: dict[str, Any]
) -> None:
    repo = stage.host.account(f"vague {status} {body}")
    async with stage.running():
        await stage.indexed(repo)
        stage.host.refuses(repo, status, body)
        await stage.commit(repo, lost=True)
        await stage.commit(repo)
        await eventually(lambda: stage.host.downloads(repo) > 1, what="a refusal", deadline=60)
        await stage.kept(repo, CONFIRM + 1.0)
        stage.host.pds.host(repo)
        await stage.in_step(repo)


@pytest.mark.parametrize(("status", "body"), [(500, {}), (200, {}), (400, {"error": "NotFound"})])
async def test_answers_without_a_meaning_change_nothing(
    stage: Stage, status: int, body: dict[str, Any]
) -> None:
    repo = stage.host.account(f"nonsense {status} {body}")
    async with stage.running():
        await stage.indexed(repo)
        stage.host.answers(repo, status, body)
        await stage.ask(Cause.REFUSAL, repo)
        await eventually(lambda: stage.host.asked(repo) > 0, what="a question", deadline=60)
        await stage.kept(repo, 1.0)
        assert await stage.repo(repo) == ("active", "active")


# -- bounds -----------------------------------------------------------------------------------


async def test_a_storm_asks_once_about_each_account_and_holds_the_deletions(stage: Stage) -> None:
    repos = [stage.host.account(f"storm {n}") for n in range(12)]
    async with stage.running(share=0.25):
        for repo in repos:
            await stage.commit(repo)
        for repo in repos:
            await stage.in_step(repo)
        for repo in repos[:8]:
            stage.host.refuses(repo, 400, {"error": "RepoNotFound"})
            stage.host.answers(repo, 400, {"error": "RepoNotFound"})
        await stage.ask(Cause.REFUSAL, *repos[:8], times=3)

        async def all_twice() -> bool:
            return all(stage.host.asked(repo) == 2 for repo in repos[:8])

        await eventually(all_twice, what="two answers about each", deadline=90)
        await asyncio.sleep(CONFIRM)
        assert {(await stage.repo(repo))[0] for repo in repos} == {"active"}
        assert [stage.host.asked(repo) for repo in repos] == [2] * 8 + [0] * 4
        async with stage.harness.database.transaction() as connection:
            [held] = await answers.held_hosts(connection)
        assert (held.gone, held.tracked) == (8, 12)
        failed = await stage.ended(await stage.person_syncs(repos[0]))
        assert failed.failure is Failure.REPO_NOT_FOUND
        await stage.deleted(repos[0])
        assert {(await stage.repo(repo))[0] for repo in repos[1:]} == {"active"}


async def test_signs_within_the_pause_wait_and_are_not_lost(stage: Stage) -> None:
    repo = stage.host.account("patient")
    async with stage.running(every=3.0):
        await stage.indexed(repo)
        stage.host.states(repo, "deactivated")
        await stage.says(repo, "deactivated")
        await stage.status(repo, "deactivated")
        await stage.commit(repo)
        await eventually(lambda: stage.host.asked(repo) == 1, what="one question", deadline=60)
        began = time.monotonic()
        stage.host.states(repo, "active")
        for _ in range(5):
            await stage.commit(repo)
        await stage.in_step(repo)
        assert stage.host.asked(repo) == 2
        assert time.monotonic() - began > 2.0
