"""The worker on real Kafka and PostgreSQL, from frames on the firehose topic to events."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import replace

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
from consumer.worker.role import Worker
from consumer.worker.verdicts import ReadFrame, Rules
from procedures.syntax import cid_text
from simulator.network import Mix, Network
from tests.support.eventually import eventually
from tests.support.proxy import TcpProxy
from tests.support.worker import Table, World, running

pytestmark = pytest.mark.services

WANTED = ("pub.chive.eprint.submission",)


def wanted(network: Network, world: World) -> Table:
    """Return what a consumer must hold of the network in the end."""
    scope = Scope(world.settings.scope.collections)
    found = {
        did: {path: cid_text(cid) for path, (cid, _) in records.items() if scope.wants(path)}
        for did, records in network.truth().items()
    }
    return {did: records for did, records in found.items() if records}


async def test_a_network_becomes_rows_and_events(world: World) -> None:
    network = Network(1, accounts=12, mix=Mix(sync=0.01, identity=0.01))
    world.keys = network.keys
    async with world.fetching(), world.working():
        await world.publish(network.introduce(20))
        await world.publish(network.frames(600))
        await world.settled()
    truth = wanted(network, world)
    assert await world.folded() == truth
    assert await world.stored() == truth
    assert {state[:2] for state in (await world.repos()).values()} == {("active", "active")}
    events = await world.events()
    assert len({event["id"] for event in events}) == len(events)
    assert await world.dead_letters() == []
    assert await world.published(Topic.OPERATIONS) == []


async def test_workers_come_and_go_under_load(world: World) -> None:
    """Lanes move between workers, one of which dies; nothing is lost or said twice."""
    network = Network(2, accounts=12)
    world.keys = network.keys
    async with world.fetching(), world.working():
        await world.publish(network.introduce(5))
        for _ in range(3):
            async with world.working():
                await world.publish(network.frames(150))
                await eventually(lambda: _owners(world, 2), what="both workers own lanes")
            await world.publish(network.frames(50))
            dying = asyncio.create_task(_work(world))
            await eventually(lambda: _owners(world, 2), what="the doomed worker owns lanes")
            await world.publish(network.frames(100))
            dying.cancel()
            await asyncio.wait([dying])
        await world.settled()
    await _agrees(world, network)


async def test_lost_answers_and_broken_commits_lose_and_repeat_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, chance, faults = sessions._commit, random.Random(7), Counter[str]()

    async def unreliable(connection: Connection, bound: float) -> None:
        task = asyncio.current_task()
        of_worker = task is not None and task.get_name().startswith(("work-", "publish-"))
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
    world.keys = network.keys
    settings = batches_of(world, 25)
    async with world.fetching(), world.working(settings):
        await world.publish(network.introduce(5))
        await world.settled()
        with monkeypatch.context() as patch:
            patch.setattr(sessions, "_commit", unreliable)
            await world.publish(network.frames(500))
            await eventually(lambda: min(faults["answer lost"], faults["rolled back"]) >= 3)
        await world.settled()
    await _agrees(world, network)


async def test_postgres_away_is_waited_out(world: World, postgres_proxy: TcpProxy) -> None:
    network = Network(4, accounts=6)
    world.keys = network.keys
    dsn = SecretStr(world.deployment.dsn_through(postgres_proxy))
    through = Database(world.deployment.postgres(dsn=dsn), world.deployment.prefix)
    await through.open()
    worker = Worker(replace(world.resources(), database=through))
    async with world.fetching(), running(worker.run):
        await world.publish(network.introduce(5))
        await world.settled()
        await postgres_proxy.stop()
        await world.publish(network.frames(200))
        assert postgres_proxy.cut > 0
        assert not await world.is_consumed()
        await postgres_proxy.start()
        await world.settled()
    await through.close()
    await _agrees(world, network)
    assert await world.dead_letters() == []


async def test_kafka_away_is_waited_out(world: World, kafka_proxy: TcpProxy) -> None:
    network = Network(4, accounts=6)
    world.keys = network.keys
    through = Client(world.deployment.kafka(bootstrap_servers=f"127.0.0.1:{kafka_proxy.port}"))
    worker = Worker(replace(world.resources(), client=through))
    async with world.fetching(), running(worker.run):
        await world.publish(network.introduce(5))
        await world.settled()
        await kafka_proxy.stop()
        await world.publish(network.frames(200))
        assert kafka_proxy.cut > 0
        assert not await world.is_consumed()
        await kafka_proxy.start()
        await world.settled()
    await _agrees(world, network)
    assert await world.dead_letters() == []


async def test_a_new_epoch_is_a_loss_window(world: World) -> None:
    network = Network(5, accounts=5, collections=WANTED)
    world.keys = network.keys
    async with world.fetching(), world.working():
        await world.publish(network.introduce(3))
        await world.settled()
        list(network.frames(30))  # nobody hears these
        world.new_epoch()
        await world.publish(network.frames(60))
        await world.settled()
    states = await world.repos()
    heard = {e["did"] for e in await world.events() if e["seq"] > 30}
    assert {states[did][1:] for did in heard} <= {
        ("desynchronized", "loss_window"),
        ("desynchronized", "broken_chain"),
    }
    rows = await world.rows("SELECT want FROM repos WHERE sync_state = 'desynchronized'")
    assert {want for (want,) in rows} == {1}
    queued = {did for (did,) in await world.rows("SELECT did FROM operations")}
    assert queued == {did for did, state in states.items() if state[1] == "desynchronized"} != set()
    assert await world.published(Topic.OPERATIONS) == []  # that is the controller's part


async def test_a_skipped_frame_is_a_loss_window(world: World) -> None:
    network = Network(6, accounts=1, collections=WANTED)
    world.keys = network.keys
    [did] = network.keys
    async with world.fetching(), world.owning(did):
        await world.publish(network.introduce(3))
        await world.settled()
        lane = world.topics.partition_of(did)
        [missing] = list(network.frames(1))
        world.record(missing, did, network.seq)  # the tailer counted it, and it never came
        await world.publish(network.frames(3))
        await world.settled()
    assert (await world.repos())[did] == ("active", "desynchronized", "broken_chain")
    [(want, rev)] = await world.rows("SELECT want, rev FROM repos")
    assert (want, rev) == (1, network.repos[did].rev), "the chain goes on, the loss is noted"
    assert world.last[lane] == network.seq


async def test_other_wanted_collections_mark_every_repo(world: World) -> None:
    network = Network(7, accounts=3, collections=WANTED)
    world.keys = network.keys
    async with world.fetching(), world.working():
        await world.publish(network.introduce(3))
        await world.settled()
    before = await world.repos()
    assert {state[1] for state in before.values()} == {"active"}
    scope = world.settings.scope.model_copy(update={"collections": ("site.standard.*",)})
    settings = world.settings.model_copy(update={"scope": scope})
    async with world.working(settings):
        await eventually(lambda: _all_in(world, "scope_changed"))
        await world.settled()
    async with world.working(settings):
        await world.settled()
    assert await world.rows("SELECT DISTINCT want FROM repos") == [(1,)]
    assert len(await world.rows("SELECT * FROM operations")) == len(before)


async def test_retention_that_passed_the_position_is_a_loss_window(world: World) -> None:
    network = Network(8, accounts=1, collections=WANTED)
    world.keys = network.keys
    [did] = network.keys
    place = TopicPartition(world.topics.name(Topic.FIREHOSE), world.topics.partition_of(did))
    async with world.fetching(), world.owning(did):
        await world.publish(network.introduce(3))
        await world.settled()
    await world.publish(network.frames(20))
    async with world.client.admin() as admin:
        before = RecordsToDelete(before_offset=world.ends[place] - 3)
        await admin.delete_records({place: before})
    async with world.owning(did):
        await world.publish(network.frames(3))
        await world.settled()
    [(state, want, rev)] = await world.rows("SELECT sync_state, want, rev FROM repos")
    assert (state, want, rev) == ("desynchronized", 1, network.repos[did].rev)


async def test_a_frame_that_kills_its_worker_is_tried_alone_and_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Network(9, accounts=1, collections=WANTED)
    world.keys = network.keys
    [did] = network.keys
    async with world.fetching(), world.owning(did):
        await world.publish(network.introduce(3))
        await world.settled()
    frames = list(network.frames(8))
    poison, tried = frames[4], list[int]()
    read = verdicts.read

    def deadly(frame: IncomingFrame, rules: Rules) -> ReadFrame:
        if frame.frame == poison:
            raise _Killed
        tried.append(frame.seq)
        return read(frame, rules)

    monkeypatch.setattr(verdicts, "read", deadly)
    await world.publish(frames)
    deaths = 0
    lane, resources = world.topics.partition_of(did), world.resources()
    stop = asyncio.Event()
    while not await world.is_consumed():
        task = asyncio.ensure_future(run_lane(lane, resources, stop))
        await eventually(lambda: task.done() or world.is_consumed())  # noqa: B023
        if task.done():
            with pytest.raises(_Killed):
                await task
            deaths += 1
        else:
            await world.settled()
            stop.set()
            await task
    assert deaths == 4, "three in a batch, one alone"
    assert [(reason, r.value) for reason, r in await world.dead_letters()] == [
        (Reason.STALLED, poison)
    ]
    assert set(range(frames_first := network.seq - 7, network.seq + 1)) - set(tried) == {
        frames_first + 4
    }
    assert (await world.repos())[did][1] == "desynchronized"
    assert await world.rows("SELECT stalls FROM lanes") == [(0,)]


class _Killed(BaseException):
    """The process ends in the middle of something."""


async def _work(world: World) -> None:
    await Worker(world.resources()).run(asyncio.Event())


async def _owners(world: World, count: int) -> bool:
    """Tell whether so many workers are members of the group."""
    async with world.client.admin() as admin:
        [described] = await admin.describe_consumer_groups([world.client.scoped("worker")])
    [group] = described.groups
    return len(group[5]) == count


async def _all_in(world: World, reason: str) -> bool:
    return {state[2] for state in (await world.repos()).values()} == {reason}


async def _agrees(world: World, network: Network) -> None:
    """Compare rows and events with the network, and look for duplicates and gaps."""
    truth = wanted(network, world)
    assert await world.folded() == truth
    assert await world.stored() == truth
    events = await world.events()
    assert len({event["id"] for event in events}) == len(events)
    for lane in range(world.topics.partitions):
        await _has_no_gap(world, lane)


async def _has_no_gap(world: World, lane: int) -> None:
    topics = (Topic.EVENTS, Topic.DEAD_LETTER)
    records = [r for topic in topics for r in await world.everything(topic, lane)]
    records += await world.published(Topic.OPERATIONS)
    numbers = sorted(
        int(dict(record.headers)["out_seq"])
        for record in records
        if int(dict(record.headers)["lane"]) == lane
    )
    assert numbers == list(range(1, len(numbers) + 1))


def batches_of(world: World, frames: int) -> Settings:
    worker = world.settings.worker.model_copy(update={"batch_frames": frames})
    return world.settings.model_copy(update={"worker": worker})
