"""Forgetting an account on real Kafka and PostgreSQL, from the command to the events."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from consumer.backfill import Forget
from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.transaction import TransactionalProducer
from consumer.state.inputs import AccountLearnt, ForgetSeen
from consumer.store.operations import write
from consumer.worker import transaction
from consumer.worker.transaction import BatchTransactions
from procedures import operations
from procedures.operations import Type
from simulator.frames import commit_frame
from simulator.network import Network
from tests.integration.test_account_questions import Stage as Served
from tests.integration.test_worker_repair import COLLECTION, RECORDS, Stage, create
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.hosts import Host
from tests.support.snapshots import chunks_of
from tests.support.web import web
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

TABLES = (
    *("repos", "records", "identities", "lookups", "account_answers"),
    *("parked", "parking", "found"),
)
COMMAND = """
INSERT INTO operations (id, type, did, lane, automatic, status, phase, attempts, started_at)
VALUES (%s, 'forget', %s, 0, false, 'running', 'injected', 1, now())
"""


@pytest.fixture
async def stage(harness: WorkerHarness) -> Any:
    network = Network(11, accounts=1, collections=(COLLECTION,))
    harness.keys = network.keys
    [repo] = network.repos.values()
    async with harness.fetching(), harness.owning(repo.account.did):
        await harness.publish(network.introduce(RECORDS))
        await harness.settled(20.0)
        yield Stage(harness, network, repo)


async def forget(stage: Stage, name: str = "forget") -> None:
    """Send the command as the fetcher does, and wait until it is carried out."""
    await stage.execute(COMMAND, name, stage.did)
    await stage.harness.tell(Forget(stage.did, name, 1))
    await ended(stage, name)


@pytest.fixture
async def served(deployment: Deployment) -> AsyncIterator[Served]:
    """Worker and fetcher, not running yet, before a scripted directory and host."""
    client = Client(deployment.kafka())
    async with (
        web() as directory,
        web() as site,
        await TransactionalProducer.open(client, "test-relay") as relay,
        await TransactionalProducer.open(client, "test-fetcher") as fetcher,
        WorkerHarness.opened(deployment, client, relay=relay, fetcher=fetcher) as harness,
    ):
        yield Served(harness, Host(directory, site))


async def ended(stage: Stage, name: str) -> None:
    async def over() -> bool:
        return (await stage.operations())[name].ended

    await eventually(over, what="the operation has ended", deadline=60)
    await stage.harness.settled(60.0)


async def is_unknown(stage: Stage) -> None:
    for table in TABLES:
        rows = await stage.harness.rows(
            f"SELECT count(*) FROM {table} WHERE did = %s",  # noqa: S608 - names of this module
            [stage.did],
        )
        assert rows == [(0,)], table


async def events_of(stage: Stage) -> list[dict[str, Any]]:
    events = await stage.harness.events()
    assert len({event["id"] for event in events}) == len(events)
    return events


async def test_an_account_is_forgotten_and_comes_back_like_a_new_one(stage: Stage) -> None:
    queued = await stage.begin(automatic=True)
    await forget(stage)
    await is_unknown(stage)
    assert await stage.harness.folded() == {}

    done = (await stage.operations())["forget"]
    assert (done.status, done.deleted) == ("completed", RECORDS)
    assert (await stage.operations())[queued].status == "cancelled"
    events = await events_of(stage)
    told = [e for e in events if e["source"] == "operator"]
    assert Counter(e["type"] for e in told) == {"account": 1, "record": RECORDS, "sync": 1}
    assert {e["operationId"] for e in told} == {"forget"}
    assert not any(e["live"] for e in told)
    (account,) = [e for e in told if e["type"] == "account"]
    assert (account["status"], account["active"]) == ("deleted", False)

    await stage.write(create("after"))
    assert await stage.state() == ("desynchronized", "first_sighting")
    sync = await stage.begin()
    await stage.tell(chunks_of(stage.repo, stage.scope, sync))
    assert await stage.state() == ("active", None)
    await stage.agrees()


async def test_many_records_go_in_batches_exactly_once_across_a_crash(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches, delete_batch = [], BatchTransactions._delete_batch

    async def interrupted(transactions: BatchTransactions, one: AccountLearnt | ForgetSeen) -> bool:
        more = await delete_batch(transactions, one)
        batches.append(more)
        if len(batches) == 2:
            raise Transient("as if PostgreSQL had gone away")
        return more

    monkeypatch.setattr(transaction, "_DELETED", RECORDS // 4)
    monkeypatch.setattr(BatchTransactions, "_delete_batch", interrupted)
    await forget(stage)
    assert (batches[:3], batches[-1]) == ([True, True, True], False)
    await is_unknown(stage)
    deletes = [e for e in await events_of(stage) if e["type"] == "record" and not e["live"]]
    assert len(deletes) == len(stage.repo.records)
    assert (await stage.operations())["forget"].deleted == RECORDS


async def test_commits_around_the_command_are_in_the_order_of_the_lane(stage: Stage) -> None:
    await stage.execute(COMMAND, "forget", stage.did)
    sent = []
    for number in range(40):
        stage.network.seq += 1
        sent.append(commit_frame(stage.network.seq, stage.repo.commit([create(f"n{number}")])))
    await stage.harness.publish(sent[:20])
    await stage.harness.tell(Forget(stage.did, "forget", 1))
    await stage.harness.publish(sent[20:])
    await ended(stage, "forget")
    # Whatever the order was, the table is the fold, and a sync makes it the repository.
    assert await stage.harness.stored() == await stage.harness.folded()
    events = await events_of(stage)
    last_of_operator = max(i for i, e in enumerate(events) if e["source"] == "operator")
    after = {f"{e['collection']}/{e['rkey']}" for e in events[last_of_operator:] if "rkey" in e}
    assert set((await stage.harness.stored()).get(stage.did, {})) <= after
    if not await stage.harness.repos():
        await stage.write(create("last"))
    await stage.tell(chunks_of(stage.repo, stage.scope, await stage.begin()))
    await stage.agrees()


async def test_a_sync_that_is_under_way_does_not_bring_the_account_back(stage: Stage) -> None:
    sync = await stage.begin()
    first, *others = chunks_of(stage.repo, stage.scope, sync)
    await stage.tell([first])
    await forget(stage)
    assert (await stage.operations())[sync].status == "cancelled"
    await stage.tell([first, *others])
    await is_unknown(stage)
    assert await stage.harness.folded() == {}


async def test_a_command_that_is_carried_out_is_not_repeated(stage: Stage) -> None:
    await forget(stage)
    await stage.write(create("after"))
    await stage.tell(chunks_of(stage.repo, stage.scope, await stage.begin()))
    await stage.harness.tell(Forget(stage.did, "forget", 1))
    await stage.harness.settled(60.0)
    await stage.agrees()
    await forget(stage, "again")
    await is_unknown(stage)
    rows = await stage.harness.rows("SELECT incarnation FROM forgotten")
    assert rows == [(2,)]
    assert json.dumps(await stage.harness.folded()) == "{}"


async def test_what_is_known_beside_the_repo_goes_as_well(stage: Stage) -> None:
    await stage.execute("UPDATE identities SET signing_key = NULL, error = 'none' WHERE true")
    await stage.execute(
        "INSERT INTO found (did, lane, source, listing) VALUES (%s, 0, 'https://a', '*')", stage.did
    )
    await stage.execute(
        "INSERT INTO account_answers VALUES (%s, now(), 'active', 'host', 'a', NULL)", stage.did
    )
    await forget(stage)
    await is_unknown(stage)


async def test_an_inactive_account_is_forgotten_without_asking_its_host(served: Served) -> None:
    repo = served.host.account("forgotten")
    did = repo.account.did
    async with served.running():
        await served.indexed(repo)
        await served.says(repo, "deactivated")
        await served.status(repo, "deactivated")
        requests = served.host.asked(repo), served.host.downloads(repo)
        operation = operations.queued("forget", Type.FORGET, did, time.time() - 1)
        async with served.harness.database.transaction() as connection:
            await write.insert(connection, operation, served.lane(repo))
        done = await served.ended("forget")
        assert (done.status, done.failure) == ("completed", None)
        assert (served.host.asked(repo), served.host.downloads(repo)) == requests
        assert await served.harness.repos() == {}
        await served.folded(did, {})
        await served.commit(repo)  # forgetting is not blocking
        await served.in_step(repo)
