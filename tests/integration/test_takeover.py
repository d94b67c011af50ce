"""A process is killed: another one takes its lanes over.  How long that takes is printed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from procedures.syntax import cid_text
from simulator.network import Network
from tests.support.consumer import Consumer, Start
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

WANTED = ("pub.chive.eprint.submission",)


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
    assert {log["lane"] for log in heir.said("lane_claimed", unclean_takeover=True)} - before
    assert await harness.stored() == {
        did: {path: cid_text(cid) for path, (cid, _) in records.items()}
        for did, records in network.truth().items()
    }
    print(f"others decided {seconds:.1f} s after the kill")  # noqa: T201 - a measurement
