"""A process is killed: another one takes its lanes over.  How long that takes is printed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from consumer.kafka.topics import Topic
from consumer.state.progress import Place
from consumer.store import progress
from demo.fold import Fold
from demo.fold import Place as Offset
from procedures.syntax import cid_text
from simulator.network import Network
from tests.support.consumer import Consumer, Start
from tests.support.deployment import PARTITIONS
from tests.support.eventually import eventually
from tests.support.worker import RELAY, WorkerHarness

pytestmark = pytest.mark.services

WANTED = ("pub.chive.eprint.submission",)


async def _all_say_that_they_are_complete(harness: WorkerHarness) -> None:
    """Show the lanes where the tailer is, and wait until each says that it is there."""
    last = [harness.last.get(lane, 0) for lane in range(PARTITIONS)]
    newest = max(last) + 1_000  # of frames that are not forwarded
    async with harness.database.transaction() as connection:
        at = Place(harness.epoch, newest)
        await progress.note_received(connection, RELAY, at, None, time.time(), last)

    async def look() -> bool:
        said = {event["lane"]: event["seq"] for event in await harness.said()}
        return said == dict.fromkeys(range(PARTITIONS), newest)

    await eventually(look, what="every lane is complete", deadline=60)


async def _judge(harness: WorkerHarness) -> None:
    fold = Fold(lambda _event: None, harness.topics.partition_of)
    for record in await harness.committed(Topic.EVENTS):
        place = Offset(record.partition, record.offset)
        fold.add(place, record.key, record.value, dict(record.headers))
    fold.finish()
    assert fold.problems == []
    assert fold.counts["progress"] > PARTITIONS


@pytest.mark.timeout(300)
async def test_the_lanes_of_a_killed_worker_go_on_elsewhere(
    harness: WorkerHarness, consumer: Start
) -> None:
    network = Network(9, accounts=12, collections=WANTED)
    harness.keys = network.keys
    environment = {
        **harness.deployment.environment(),
        "CHIVE_SCOPE__COLLECTIONS": ",".join(WANTED),
        "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
        "CHIVE_WORKER__PROGRESS_EVERY": "0.1",
    }

    async def started() -> Consumer:
        process: Consumer = await consumer("run", "--role", "worker", env=environment)
        await process.saying("lane_claimed", deadline=90)
        return process

    async with harness.fetching():
        mortal = await started()
        heir = await started()
        await harness.publish(network.introduce(3))
        await harness.settled()
        before = {log["lane"] for log in heir.said("lane_claimed")}
        os.kill(mortal.pid, signal.SIGKILL)
        killed = time.monotonic()
        await mortal.ended()
        await harness.publish(network.frames(200))
        await harness.settled()
        seconds = time.monotonic() - killed
        await _all_say_that_they_are_complete(harness)
    assert {log["lane"] for log in heir.said("lane_claimed", unclean_takeover=True)} - before
    assert await harness.stored() == {
        did: {path: cid_text(cid) for path, (cid, _) in records.items()}
        for did, records in network.truth().items()
    }
    await _judge(harness)
    print(f"others decided {seconds:.1f} s after the kill")  # noqa: T201 - a measurement
