"""The worker on real Kafka and PostgreSQL, from frames on the firehose topic to events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from aiokafka.admin import RecordsToDelete
from pydantic import SecretStr

from consumer.config.settings import Settings
from consumer.errors import Reason
from consumer.kafka.client import Client
from consumer.kafka.reader import TopicPartition
from consumer.kafka.topics import Topic
from consumer.scope import Scope
from consumer.store import database as sessions
from consumer.store.database import Connection, Database
from consumer.store.errors import CommitUnknown
from consumer.worker import verdicts
from consumer.worker.incoming import IncomingFrame
from consumer.worker.lane import run_lane
from consumer.worker.poison import ALONE_CRASHES, CRASHES
from consumer.worker.role import Worker
from consumer.worker.verdicts import ReadFrame, Rules
from procedures.syntax import cid_text
from simulator.network import Mix, Network
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.proxy import TcpProxy
from tests.support.worker import Table, WorkerHarness

pytestmark = pytest.mark.services

WANTED = ("pub.chive.eprint.submission",)


def wanted(network: Network, harness: WorkerHarness) -> Table:
    """Return what a consumer must hold of the network in the end."""
    scope = Scope(harness.settings.scope.collections)
    found = {
        did: {path: cid_text(cid) for path, (cid, _) in records.items() if scope.wants(path)}
        for did, records in network.truth().items()
    }
    return {did: records for did, records in found.items() if records}


async def test_a_network_becomes_rows_and_events(harness: WorkerHarness) -> None:
    network = Network(1, accounts=12, mix=Mix(sync=0.01, identity=0.01))
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(20))
        await harness.publish(network.frames(600))
        await harness.settled()
    truth = wanted(network, harness)
    assert await harness.folded() == truth
    assert await harness.stored() == truth
    assert {state[:2] for state in (await harness.repos()).values()} == {("active", "active")}
    events = await harness.events()
    assert len({event["id"] for event in events}) == len(events)
    assert await harness.dead_letters() == []
    assert await harness.committed(Topic.OPERATIONS) == []


async def test_workers_come_and_go_under_load(harness: WorkerHarness) -> None:
    """Lanes move between workers, one of which dies; nothing is lost or said twice."""
    network = Network(2, accounts=12)
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(5))
        for _ in range(3):
            async with harness.working():
                await harness.publish(network.frames(150))
                await eventually(lambda: _owners(harness, 2), what="both workers own lanes")
            await harness.publish(network.frames(50))
            dying = asyncio.create_task(_work(harness))
            await eventually(lambda: _owners(harness, 2), what="the doomed worker owns lanes")
            await harness.publish(network.frames(100))
            dying.cancel()
            await asyncio.wait([dying])
        await harness.settled()
    await _agrees(harness, network)


async def test_lost_answers_and_broken_commits_lose_and_repeat_nothing(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, chance, faults = sessions._commit, random.Random(7), Counter[str]()

    async def unreliable(connection: Connection, bound: float) -> None:
        task = asyncio.current_task()
        name = task.get_name() if task is not None else ""
        of_worker = name.startswith(("work-", "decide", "publisher"))
        weights = [8, 1, 1] if of_worker else [1, 0, 0]
        fault = chance.choices(["none", "answer lost", "rolled back"], weights)[0]
        faults[fault] += 1
        if fault == "rolled back":
            await connection.rollback()
        else:
            await commit(connection, bound)
        if fault != "none":
            raise CommitUnknown(fault)

    network = Network(3, accounts=8)
    harness.keys = network.keys
    settings = batches_of(harness, 25)
    async with harness.fetching(), harness.working(settings):
        await harness.publish(network.introduce(5))
        await harness.settled()
        with monkeypatch.context() as patch:
            patch.setattr(sessions, "_commit", unreliable)
            while min(faults["answer lost"], faults["rolled back"]) < 3:
                await harness.publish(network.frames(100))
                await harness.consumed()
        await harness.settled()
    await _agrees(harness, network)


async def test_postgres_away_is_waited_out(
    harness: WorkerHarness, postgres_proxy: TcpProxy
) -> None:
    network = Network(4, accounts=6)
    harness.keys = network.keys
    dsn = SecretStr(harness.deployment.dsn_through(postgres_proxy))
    through = Database(harness.deployment.postgres(dsn=dsn), harness.deployment.prefix)
    await through.open()
    worker = Worker(harness.resources(database=through))
    async with harness.fetching(), running(worker.run):
        await harness.publish(network.introduce(5))
        await harness.settled()
        await postgres_proxy.stop()
        await harness.publish(network.frames(200))
        assert postgres_proxy.cut > 0
        assert not await harness.is_consumed()
        await postgres_proxy.start()
        await harness.settled()
    await through.close()
    await _agrees(harness, network)
    assert await harness.dead_letters() == []


async def test_kafka_away_is_waited_out(harness: WorkerHarness, kafka_proxy: TcpProxy) -> None:
    network = Network(4, accounts=6)
    harness.keys = network.keys
    through = Client(harness.deployment.kafka(bootstrap_servers=f"127.0.0.1:{kafka_proxy.port}"))
    worker = Worker(harness.resources(client=through))
    async with harness.fetching(), running(worker.run):
        await harness.publish(network.introduce(5))
        await harness.settled()
        await kafka_proxy.stop()
        await harness.publish(network.frames(200))
        assert kafka_proxy.cut > 0
        assert not await harness.is_consumed()
        await kafka_proxy.start()
        await harness.settled()
    await _agrees(harness, network)
    assert await harness.dead_letters() == []


async def test_a_new_epoch_is_a_loss_window(harness: WorkerHarness) -> None:
    network = Network(5, accounts=5, collections=WANTED)
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(3))
        await harness.settled()
        list(network.frames(30))  # these are lost
        harness.new_epoch()
        await harness.publish(network.frames(60))
        await harness.settled()
    states = await harness.repos()
    heard = {e["did"] for e in await harness.events() if e["seq"] > 30}
    assert {states[did][1:] for did in heard} <= {
        ("desynchronized", "loss_window"),
        ("desynchronized", "broken_chain"),
    }
    rows = await harness.rows("SELECT want FROM repos WHERE sync_state = 'desynchronized'")
    assert {want for (want,) in rows} == {1}
    queued = {did for (did,) in await harness.rows("SELECT did FROM operations")}
    assert queued == {did for did, state in states.items() if state[1] == "desynchronized"} != set()
    assert await harness.committed(Topic.OPERATIONS) == []  # that is the controller's part


async def test_a_notice_of_an_epoch_is_a_loss_window_without_any_frame(
    harness: WorkerHarness,
) -> None:
    network = Network(5, accounts=5, collections=WANTED)
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(3))
        await harness.settled()
        harness.new_epoch()
        lanes = range(harness.topics.partitions)
        records = [harness.record(b"", "", 0) for _ in lanes]
        notice = (("notice", b"epoch"),)
        await harness.send(
            [r._replace(partition=n, headers=r.headers + notice) for n, r in enumerate(records)]
        )
        harness.last.clear()
        await harness.settled()
        assert {state[1:] for state in (await harness.repos()).values()} == {
            ("desynchronized", "loss_window")
        }
    assert await harness.dead_letters() == []


async def test_a_skipped_frame_is_a_loss_window(harness: WorkerHarness) -> None:
    network = Network(6, accounts=1, collections=WANTED)
    harness.keys = network.keys
    [did] = network.keys
    async with harness.fetching(), harness.owning(did):
        await harness.publish(network.introduce(3))
        await harness.settled()
        lane = harness.topics.partition_of(did)
        [missing] = list(network.frames(1))
        harness.record(missing, did, network.seq)  # the tailer counted it, and it never came
        await harness.publish(network.frames(3))
        await harness.settled()
    assert (await harness.repos())[did] == ("active", "desynchronized", "broken_chain")
    [(want, rev)] = await harness.rows("SELECT want, rev FROM repos")
    assert (want, rev) == (1, network.repos[did].rev), "the chain goes on, the loss is noted"
    assert harness.last[lane] == network.seq


async def test_other_wanted_collections_mark_every_repo(harness: WorkerHarness) -> None:
    network = Network(7, accounts=3, collections=WANTED)
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(3))
        await harness.settled()
    before = await harness.repos()
    assert {state[1] for state in before.values()} == {"active"}
    scope = harness.settings.scope.model_copy(update={"collections": ("site.standard.*",)})
    settings = harness.settings.model_copy(update={"scope": scope})
    async with harness.working(settings):
        await eventually(lambda: _all_in(harness, "scope_changed"))
        await harness.settled()
    async with harness.working(settings):
        await harness.settled()
    assert await harness.rows("SELECT DISTINCT want FROM repos") == [(1,)]
    assert len(await harness.rows("SELECT * FROM operations")) == len(before)


async def test_retention_that_passed_the_position_is_a_loss_window(harness: WorkerHarness) -> None:
    network = Network(8, accounts=1, collections=WANTED)
    harness.keys = network.keys
    [did] = network.keys
    place = TopicPartition(harness.topics.name(Topic.FIREHOSE), harness.topics.partition_of(did))
    async with harness.fetching(), harness.owning(did):
        await harness.publish(network.introduce(3))
        await harness.settled()
    await harness.publish(network.frames(20))
    async with harness.client.admin() as admin:
        before = RecordsToDelete(before_offset=harness.ends[place] - 3)
        await admin.delete_records({place: before})
    async with harness.owning(did):
        await harness.publish(network.frames(3))
        await harness.settled()
    [(state, want, rev)] = await harness.rows("SELECT sync_state, want, rev FROM repos")
    assert (state, want, rev) == ("desynchronized", 1, network.repos[did].rev)


async def test_a_frame_that_kills_its_worker_is_tried_alone_and_refused(
    harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(9, accounts=1, collections=WANTED)
    harness.keys = network.keys
    [did] = network.keys
    async with harness.fetching(), harness.owning(did):
        await harness.publish(network.introduce(3))
        await harness.settled()
    frames = list(network.frames(8))
    poison, tried = frames[4], list[int]()
    read = verdicts.read

    def deadly(frame: IncomingFrame, rules: Rules) -> ReadFrame:
        if frame.frame == poison:
            raise _Killed
        tried.append(frame.seq)
        return read(frame, rules)

    monkeypatch.setattr(verdicts, "read", deadly)
    await harness.publish(frames)
    deaths = 0
    lane, resources = harness.topics.partition_of(did), harness.resources()
    stop = asyncio.Event()
    while not await harness.is_consumed():
        task = asyncio.ensure_future(run_lane(lane, resources, stop))
        await eventually(lambda: task.done() or harness.is_consumed())  # noqa: B023
        if task.done():
            with pytest.raises(_Killed):
                await task
            deaths += 1
        else:
            await harness.settled()
            stop.set()
            await task
    assert deaths == CRASHES + ALONE_CRASHES
    assert [(reason, r.value) for reason, r in await harness.dead_letters()] == [
        (Reason.STALLED, poison)
    ]
    assert set(range(frames_first := network.seq - 7, network.seq + 1)) - set(tried) == {
        frames_first + 4
    }
    assert (await harness.repos())[did][1] == "desynchronized"
    assert await harness.rows("SELECT stalls FROM lanes") == [(0,)]


class _Killed(BaseException):
    """The process ends in the middle of something."""


async def _work(harness: WorkerHarness) -> None:
    await Worker(harness.resources()).run(asyncio.Event())


async def _owners(harness: WorkerHarness, count: int) -> bool:
    """Tell whether ``count`` workers are members of the group."""
    async with harness.client.admin() as admin:
        [described] = await admin.describe_consumer_groups([harness.client.scoped("worker")])
    [group] = described.groups
    return len(group[5]) == count


async def _all_in(harness: WorkerHarness, reason: str) -> bool:
    return {state[2] for state in (await harness.repos()).values()} == {reason}


async def _agrees(harness: WorkerHarness, network: Network) -> None:
    """Compare rows and events with the network, and look for duplicates and gaps."""
    truth = wanted(network, harness)
    assert await harness.folded() == truth
    assert await harness.stored() == truth
    events = await harness.events()
    assert len({event["id"] for event in events}) == len(events)
    for lane in range(harness.topics.partitions):
        await _has_no_gap(harness, lane)


async def _has_no_gap(harness: WorkerHarness, lane: int) -> None:
    topics = (Topic.EVENTS, Topic.DEAD_LETTER)
    records = [r for topic in topics for r in await harness.committed(topic, lane)]
    records += await harness.committed(Topic.OPERATIONS)
    numbers = sorted(
        int(dict(record.headers)["out_seq"])
        for record in records
        if int(dict(record.headers)["lane"]) == lane
    )
    assert numbers == list(range(1, len(numbers) + 1))


def batches_of(harness: WorkerHarness, frames: int) -> Settings:
    worker = harness.settings.worker.model_copy(update={"batch_frames": frames})
    return harness.settings.model_copy(update={"worker": worker})
