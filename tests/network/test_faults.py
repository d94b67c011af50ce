"""Faults in mid-stream, on a real PDS: killed roles, workers that come and go, servers away.

Whatever happened, in the end the events, the rows and the PDS agree, and ``chive.firehose``
holds every frame of the PDS's firehose once, in order.  Every fault proves that it happened.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect

from consumer.embedded.kafka import EmbeddedKafka
from consumer.embedded.postgres import EmbeddedPostgres
from consumer.verify.frames import peek
from demo.local_network import Endpoints, LocalNetwork
from demo.observe import Observer, observing
from demo.traffic import Traffic
from tests.support.consumer import Consumer, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import assert_chained, forwarded

ROUNDS = 3
OUTAGE = 20.0  # seconds that Kafka is away
CATCH_UP = 180.0

Environment = dict[str, str]


def environment_of(deployment: Deployment, network: LocalNetwork) -> Environment:
    everything = {"CHIVE_RELAY__FORWARD": "all"}
    return deployment.environment() | network.endpoints.environment() | everything


@asynccontextmanager
async def traffic_of(endpoints: Endpoints, people: str) -> AsyncIterator[Traffic]:
    """Let people write as long as the block lasts; each happening comes in its first 30 s."""
    traffic = Traffic(endpoints, seed=11, accounts=6, rate=30, span=30, people=people)
    stop = asyncio.Event()
    writing = asyncio.create_task(traffic.run(stop))
    try:
        yield traffic
        stop.set()
        await writing
    finally:
        writing.cancel()
        await asyncio.wait([writing])
        await traffic.close()


async def moved(observer: Observer) -> None:
    """Wait until the cursor has passed what the PDS has emitted by now."""
    newest = await observer.network.newest_seq()

    async def passed() -> bool:
        left = await observer.behind()
        return await observer.network.newest_seq() - left.seqs >= newest

    await eventually(passed, what="the cursor moves", deadline=90)


async def worked(observer: Observer) -> None:
    """Wait until the lanes have taken in more than they had."""

    async def done() -> int:
        async with observer.database.transaction() as connection:
            rows = await connection.execute("SELECT sum(firehose_offset)::bigint FROM lanes")
            found = await rows.fetchone()
            return int(found[0] or 0) if found else 0

    before = await done()

    async def more() -> bool:
        return await done() > before

    await eventually(more, what="the lanes move", deadline=90)


class Witness:
    """Reads the PDS's firehose from its beginning, with nothing of ours but the look at a seq."""

    def __init__(self, endpoints: Endpoints) -> None:
        self.frames: dict[int, bytes] = {}
        self._url = f"{endpoints.firehose}/xrpc/com.atproto.sync.subscribeRepos?cursor=0"

    async def read(self) -> None:
        """Read until cancelled."""
        async with connect(self._url, max_size=None, compression=None) as socket:
            async for frame in socket:
                assert isinstance(frame, bytes)
                seq = peek(frame).seq
                assert seq is not None
                self.frames[seq] = frame

    async def through(self, newest: int) -> dict[int, bytes]:
        """Wait for the frame ``newest`` and return all frames up to it."""
        await eventually(lambda: newest in self.frames, what=f"frame {newest}", deadline=60)
        return self.frames


@asynccontextmanager
async def witness_of(endpoints: Endpoints) -> AsyncIterator[Witness]:
    witness = Witness(endpoints)
    reading = asyncio.create_task(witness.read())
    try:
        yield witness
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def agreed(observer: Observer, witness: Witness) -> None:
    """Check that nothing is left to do and that PDS, store and topic agree."""
    left = await observer.caught_up(deadline=CATCH_UP)
    assert left.nothing, str(left)
    comparison = await observer.compared()
    assert comparison.differences == []
    assert {"record create", "record update", "record delete"} <= set(comparison.events)
    await same_frames(observer, witness)


async def same_frames(observer: Observer, witness: Witness) -> None:
    """Check ``chive.firehose``: every frame once, in order, each naming the one before it.

    A PDS forgets the frames of an account that is deleted.  Who connects again after that
    cannot have them; what the PDS still serves in the end, store and topic must have.
    """
    newest = await observer.network.newest_seq()
    seen = await witness.through(newest)
    async with witness_of(observer.network.endpoints) as late:
        served = await late.through(newest)
    records = await forwarded(observer.client, observer.topics)
    assert_chained(records)
    frames = {record.seq: record.frame for record in records}
    assert len(frames) == len(records)
    assert {record.epoch for record in records} == {1}  # no loss was noticed
    assert served.keys() <= frames.keys() <= seen.keys()
    assert frames == {seq: seen[seq] for seq in frames}


async def killed(process: Consumer) -> None:
    process.signal(signal.SIGKILL)
    assert await process.ended() == -signal.SIGKILL


@asynccontextmanager
async def watching(network: LocalNetwork, deployment: Deployment) -> AsyncIterator[Observer]:
    """Observe while people write; after the block, check that PDS, store and topic agree."""
    people = deployment.prefix.rstrip(".")[:8]  # a handle has 18 characters at most
    async with (
        observing(network, deployment.settings()) as observer,
        witness_of(network.endpoints) as witness,
    ):
        async with traffic_of(network.endpoints, people) as traffic:
            yield observer
        assert traffic.done["commits"] > 0
        await agreed(observer, witness)


@pytest.mark.timeout(900)
async def test_roles_killed_in_mid_stream_lose_and_repeat_nothing(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    environment = environment_of(deployment, pds_network)

    async def start(role: str) -> Consumer:
        process: Consumer = await consumer("run", "--role", role, env=environment)
        await process.saying("process_running", deadline=90)
        return process

    tailer, fetcher = await start("tailer"), await start("fetcher")
    workers = [await start("worker"), await start("worker")]
    async with watching(pds_network, deployment) as observer:
        for _ in range(ROUNDS):
            await moved(observer)
            await killed(tailer)
            tailer = await start("tailer")
            await worked(observer)
            await killed(workers.pop(0))  # its lanes move to the other
            await worked(observer)
            workers.append(await start("worker"))  # and half of them to the new one
            await workers[-1].saying("lane_claimed", deadline=90)
        await moved(observer)
        assert await workers.pop(0).stopped() == 0
        await worked(observer)
    for process in (tailer, fetcher, *workers):
        assert await process.stopped() == 0


async def failing(process: Consumer, check: str) -> None:
    """Wait until the process says that ``check`` fails, while it lives on."""
    url = await process.url()
    async with httpx.AsyncClient(timeout=20) as client:

        async def unready() -> bool:
            detail = (await client.get(f"{url}/readyz")).json()
            return detail["checks"][check]["ok"] is False

        await eventually(unready, what=f"{check} fails", deadline=60)
        assert (await client.get(f"{url}/livez")).status_code == httpx.codes.OK


@pytest.mark.timeout(900)
async def test_servers_that_are_away_are_waited_out(
    pds_network: LocalNetwork,
    own_kafka: EmbeddedKafka,
    own_postgres: EmbeddedPostgres,
    consumer: Start,
    tmp_path: Path,
) -> None:
    deployment = Deployment(
        own_kafka.bootstrap_servers, "away.", own_postgres.dsn, tmp_path / "data"
    )
    process: Consumer = await consumer("run", env=environment_of(deployment, pds_network))
    await process.saying("relay_connected", deadline=90)
    async with watching(pds_network, deployment) as observer:
        await moved(observer)
        await own_kafka.stop()
        outage = asyncio.create_task(asyncio.sleep(OUTAGE))
        await failing(process, "kafka")
        await outage
        await own_kafka.start()
        await moved(observer)
        await worked(observer)
        await own_postgres.stop()
        await failing(process, "postgres")
        await own_postgres.start()
        await worked(observer)
    assert await process.stopped() == 0
