"""The sweep on real Kafka and PostgreSQL, before a scripted directory and scripted hosts.

Each story ends with the table equal to the fold of the topic, equal to what the host holds.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from urllib.parse import urlencode

import pytest

from consumer.config.retries import RetrySettings
from consumer.config.settings import (
    DiscoverySettings,
    IdentitySettings,
    NetworkSettings,
    RelaySettings,
)
from consumer.fetch.discovery.role import discover
from consumer.fetch.role import Fetcher
from consumer.scope import Scope
from consumer.state.discovery import SWEEP, SearchState, opened
from consumer.store import searches, sweep
from simulator.account import Account
from simulator.frames import commit_frame
from simulator.repo import Repo, Write
from tests.integration.test_account_questions import CONFIRM, Stage, staged
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import Harness, running
from tests.support.pds import COLLECTION
from tests.support.web import Web, response, web

pytestmark = pytest.mark.services

PERIOD = 3.0
NEWER, OURS = "3l4qccccccc22", "3l4qbbbbbbb22"


@pytest.fixture
async def stage(deployment: Deployment) -> AsyncIterator[Stage]:
    async with staged(deployment) as stage:
        yield stage


def latest_path(did: str) -> str:
    return f"/xrpc/com.atproto.sync.getLatestCommit?{urlencode({'did': did})}"


def latest(rev: str | None) -> bytes:
    return response(200, json.dumps({"cid": "bafy", "rev": rev}).encode())


def shows(stage: Stage, repo: Repo) -> None:
    """Let the host state the latest commit of ``repo`` as it is when it is asked."""

    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(latest(repo.rev))
        await writer.drain()

    stage.host.site.replies[latest_path(repo.account.did)] = reply


def asked(stage: Stage, repo: Repo) -> int:
    return stage.host.site.paths.count(latest_path(repo.account.did))


@asynccontextmanager
async def sweeping(stage: Stage, confirm_after: float = 1.0) -> AsyncIterator[None]:
    """Run worker, fetcher and sweep during the block; a round takes three seconds."""
    settings = stage.settings(every=CONFIRM).model_copy(
        update={
            "relay": RelaySettings(url=stage.host.directory.origin.replace("http", "ws")),
            "discovery": DiscoverySettings(
                sweep_every=PERIOD, sweep_pace=1_000.0, sweep_confirm_after=confirm_after
            ),
        }
    )
    harness, scope = stage.harness, Scope(settings.scope.collections)
    fetcher = Fetcher(settings, harness.client, harness.topics, harness.database, scope)
    found = partial(discover, settings, scope, harness.topics, harness.database)
    async with harness.working(settings), running(fetcher.run, found):
        yield


async def rounds(stage: Stage, count: int) -> None:
    """Wait until the host was asked about everything that often."""

    async def moments() -> float:
        rows = await stage.harness.rows(
            "SELECT extract(epoch FROM began_at)::float8 FROM sweep WHERE ended_at IS NOT NULL"
        )
        return rows[0][0] if rows else 0.0

    for _ in range(count):
        before = await moments()

        async def passed(before: float = before) -> bool:
            return await moments() > before

        await eventually(passed, what="another round ends", deadline=90)


async def syncs(stage: Stage, repo: Repo) -> list[str]:
    rows = await stage.harness.rows(
        "SELECT reason FROM operations WHERE did = %s AND type = 'didSync' AND automatic",
        [repo.account.did],
    )
    return [reason for (reason,) in rows]


async def test_a_commit_that_was_lost_is_found_and_repaired(
    stage: Stage,
) -> None:
    repo, quiet = stage.host.account("lost its frame"), stage.host.account("quiet")
    for each in (repo, quiet):
        shows(stage, each)
    async with sweeping(stage):
        for each in (repo, quiet):
            await stage.indexed(each)
        before, ends = await syncs(stage, quiet), len(await syncs(stage, repo))
        await stage.commit(repo, lost=True)
        await stage.in_step(repo)
        assert (await syncs(stage, repo))[ends:] == ["listed_newer"]
        await rounds(stage, 1)
        assert await syncs(stage, quiet) == before


async def test_a_commit_that_is_on_its_way_is_not_synced(
    stage: Stage,
) -> None:
    repo = stage.host.account("on its way")
    shows(stage, repo)
    async with sweeping(stage, confirm_after=30.0):
        await stage.indexed(repo)
        ends = len(await syncs(stage, repo))
        frame = await late_frame(stage, repo)
        await eventually(lambda: waits_for(stage, repo), what="it is newer", deadline=60)
        await stage.harness.publish([frame])
        await stage.in_step(repo)
        await stage.harness.execute("UPDATE sweep_later SET due = now()")

        async def settled() -> bool:
            return not await waits_for(stage, repo)

        await eventually(settled, what="the check is over", deadline=60)
        assert len(await syncs(stage, repo)) == ends


async def late_frame(stage: Stage, repo: Repo) -> bytes:
    """Make a commit at the host, and return its frame."""
    stage.seq += 1
    path = f"{COLLECTION}/n{stage.seq}"
    commit = repo.commit([Write("create", path, {"$type": COLLECTION, "n": stage.seq})])
    return commit_frame(stage.seq, commit)


async def waits_for(stage: Stage, repo: Repo) -> bool:
    rows = await stage.harness.rows(
        "SELECT rev FROM sweep_later WHERE did = %s AND rev IS NOT NULL", [repo.account.did]
    )
    return bool(rows)


async def test_an_account_that_went_without_notice_becomes_so(
    stage: Stage,
) -> None:
    repo = stage.host.account("went quietly")
    shows(stage, repo)
    async with sweeping(stage):
        await stage.indexed(repo)
        stage.host.states(repo, "deactivated")
        stage.host.site.replies[latest_path(repo.account.did)] = response(
            400, json.dumps({"error": "RepoDeactivated"}).encode()
        )
        await stage.status(repo, "deactivated")
        # And back, also without a notice: inactive accounts are asked about at the same pace.
        shows(stage, repo)
        stage.host.states(repo, "active")
        await stage.commit(repo, lost=True)
        await stage.in_step(repo)


async def test_a_host_that_is_down_changes_nothing(
    stage: Stage,
) -> None:
    repo = stage.host.account("its host is down")
    shows(stage, repo)
    async with sweeping(stage):
        await stage.indexed(repo)
        before, ends = await stage.harness.stored(), len(await syncs(stage, repo))
        stage.host.site.replies[latest_path(repo.account.did)] = response(503)
        await stage.commit(repo, lost=True)
        count = asked(stage, repo)

        async def is_asked() -> bool:
            return asked(stage, repo) >= count + 2

        await eventually(is_asked, what="the host is asked again", deadline=90)
        assert await stage.harness.stored() == before
        assert await stage.repo(repo) == ("active", "active")
        assert len(await syncs(stage, repo)) == ends
        assert stage.host.asked(repo) == 0
        shows(stage, repo)
        await stage.in_step(repo)


# -- many repositories, several fetchers ---------------------------------------------------------


@dataclass
class Swept:
    """A deployment with known repositories at two scripted hosts, and no worker."""

    harness: Harness
    sites: list[Web]
    dids: list[str]

    @classmethod
    async def of(cls, harness: Harness, sites: list[Web], count: int) -> Swept:
        dids = [f"did:web:n{number:03}.example" for number in range(count)]
        for number, did in enumerate(dids):
            site = sites[number % len(sites)]
            site.replies[latest_path(did)] = latest(OURS)
            await harness.execute(
                "INSERT INTO repos (did, lane, sync_state, rev, pds)"
                " VALUES (%s, 0, 'active', %s, %s)",
                [did, OURS, site.origin],
            )
        return cls(harness, sites, dids)

    @asynccontextmanager
    async def sweeping(
        self, processes: int = 1, *, every: float = 3_600.0, pace: float = 1_000.0
    ) -> AsyncIterator[None]:
        settings = self.harness.deployment.settings(
            relay=RelaySettings(url="ws://127.0.0.1:1"),
            identity=IdentitySettings(plc_url=self.sites[0].origin, timeout=3.0),
            network=NetworkSettings(allow_loopback=True),
            discovery=DiscoverySettings(sweep_every=every, sweep_pace=pace),
            retries=RetrySettings(renewal_first=3_600.0, renewal_longest=3_600.0),
        )
        scope, topics = Scope(("pub.chive.graph.vote",)), self.harness.topics
        root = partial(discover, settings, scope, topics, self.harness.database)
        async with running(*[root] * processes):
            yield

    async def begin(self) -> None:
        """Begin a round that is late: everything is due at once, the next round in an hour."""
        await self.harness.execute(
            "INSERT INTO sweep (way, began_at, total) VALUES ('hosts', now(), 1)"
        )

    async def ended(self) -> bool:
        return bool(await self.harness.rows("SELECT FROM sweep WHERE ended_at IS NOT NULL"))

    async def counts(self) -> dict[str, int]:
        return dict(await self.harness.rows("SELECT finding, repos FROM sweep_counts"))

    def asked(self) -> Counter[str]:
        return Counter(path for site in self.sites for path in site.paths)

    @property
    def once(self) -> Counter[str]:
        return Counter(map(latest_path, self.dids))


@pytest.fixture
async def swept(deployment: Deployment) -> AsyncIterator[Swept]:
    async with web() as one, web() as other, Harness.opened(deployment) as harness:
        yield await Swept.of(harness, [one, other], 120)


async def test_several_fetchers_ask_about_each_repository_once(swept: Swept) -> None:
    await swept.begin()
    async with swept.sweeping(processes=3):
        await eventually(swept.ended, what="the round ends", deadline=90)
    assert await swept.counts() == {"in_step": 120}
    assert swept.asked() == swept.once
    assert [len(site.requests) for site in swept.sites] == [60, 60]


async def test_a_round_is_spread_over_its_period(swept: Swept) -> None:
    async def all_but_the_last() -> bool:
        return len(swept.asked()) >= 119

    began = time.monotonic()
    async with swept.sweeping(every=30.0):
        await eventually(all_but_the_last, what="all were asked", deadline=90)
        assert time.monotonic() - began >= 30.0 * 0.95
    assert max(swept.asked().values()) == 1


async def test_a_host_is_asked_no_faster_than_its_pace(swept: Swept) -> None:
    await swept.begin()
    began = time.monotonic()
    async with swept.sweeping(pace=20.0):
        await eventually(swept.ended, what="the round ends", deadline=90)
        assert time.monotonic() - began >= 59 / 20.0
    assert swept.asked() == swept.once


async def test_what_is_found_is_counted(swept: Swept) -> None:
    first, second, third, fourth = swept.dids[0:8:2]
    site = swept.sites[0]
    site.replies[latest_path(first)] = latest(NEWER)
    site.replies[latest_path(second)] = response(400, b'{"error": "RepoTakendown"}')
    site.replies[latest_path(third)] = response(500)
    await swept.harness.execute("UPDATE repos SET status = 'suspended' WHERE did = %s", [fourth])
    await swept.begin()
    async with swept.sweeping():
        await eventually(swept.ended, what="the round ends", deadline=90)
    counts = await swept.counts()
    assert counts.pop("in_step") == 116
    assert counts == {"newer": 1, "refused": 1, "unasked": 1, "inactive": 1}
    assert await swept.harness.rows("SELECT did, cause FROM lookups ORDER BY did") == [
        (second, "refusal"),
        (fourth, "sweep"),
    ]
    later = await swept.harness.rows("SELECT did, rev, failure FROM sweep_later ORDER BY did")
    assert later == [(first, NEWER, None), (third, None, "HostError")]
    assert await swept.harness.rows("SELECT did FROM operations WHERE type = 'didSync'") == []


async def test_an_account_that_has_moved_is_compared_where_it_is(swept: Swept) -> None:
    before, today = swept.sites
    account = Account.from_seed("moved")
    await swept.harness.execute(
        "INSERT INTO repos (did, lane, sync_state, rev, pds) VALUES (%s, 0, 'active', %s, %s)",
        [account.did, OURS, before.origin],
    )
    before.replies[latest_path(account.did)] = response(400, b'{"error": "RepoNotFound"}')
    document = json.dumps(account.document(today.origin)).encode()
    before.replies[f"/{account.did}"] = response(200, document)  # it is the directory, too
    today.replies[latest_path(account.did)] = latest(OURS)
    await swept.begin()
    async with swept.sweeping():
        await eventually(swept.ended, what="the round ends", deadline=90)
    assert await swept.counts() == {"in_step": 121}
    lookups = await swept.harness.rows("SELECT did, kind FROM lookups")
    assert lookups == [(account.did, "identity")]  # so that its new host is known


async def test_a_page_of_a_process_that_died_is_checked_by_another(swept: Swept) -> None:
    await swept.begin()
    async with swept.harness.database.transaction() as connection:
        lost = await sweep.take(connection, 10, 1.0)
    assert lost is not None
    async with swept.sweeping():
        await eventually(swept.ended, what="the round ends", deadline=90)
    assert swept.asked() == swept.once


async def test_a_relay_that_refuses_its_listing_is_not_waited_for(swept: Swept) -> None:
    await swept.harness.execute(
        "INSERT INTO sweep (way, began_at, ended_at, total) VALUES ('listing', now(), now(), 1)"
    )
    async with swept.harness.database.transaction() as connection:
        refused = replace(opened("http://127.0.0.1:1", SWEEP, 1, time.time()), pages=0)
        await searches.put(connection, replace(refused, state=SearchState.UNSUPPORTED))
    async with swept.sweeping():

        async def begun() -> bool:
            return bool(await swept.harness.rows("SELECT FROM sweep WHERE way = 'hosts'"))

        await eventually(begun, what="the hosts are asked", deadline=60)
