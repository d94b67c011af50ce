"""Syncs and refreshes on a real PDS find unannounced changes while authors write."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from consumer.store.operations import read
from demo.local_network import LocalNetwork
from demo.observe import Observer, observing
from demo.repair import Missed, all_repaired, command, missed, repair
from demo.traffic import Traffic
from tests.support.consumer import Consumer, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

SECONDS = 8.0
CATCH_UP = 240.0  # the PDS remembers the accounts of other tests

Environment = dict[str, str]


def environment_of(deployment: Deployment, network: LocalNetwork) -> Environment:
    return deployment.environment() | network.endpoints.environment()


@asynccontextmanager
async def people(network: LocalNetwork, name: str) -> AsyncIterator[Traffic]:
    """Let six people write for some seconds; they stay until the block ends."""
    traffic = Traffic(network.endpoints, seed=23, accounts=6, rate=20, span=SECONDS, people=name)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(SECONDS, stop.set)
    try:
        await traffic.run(stop)
        yield traffic
    finally:
        await traffic.close()


async def agreed(observer: Observer) -> None:
    assert await all_repaired(observer)
    left = await observer.caught_up(CATCH_UP)
    assert left.nothing, str(left)
    assert (await observer.compared()).differences == []


async def drifted(observer: Observer, traffic: Traffic) -> Missed:
    """Make the index wrong, and prove it."""
    drift = await missed(observer, traffic.authors)
    assert len((await observer.compared()).differences) > 4
    return drift


async def open_operations(observer: Observer) -> int:
    async with observer.database.transaction() as connection:
        counts = await read.by_status(connection)
    return counts.get("queued", 0) + counts.get("running", 0)


async def asked(observer: Observer, count: int) -> bool:
    """Tell whether ``count`` operations that were asked for have completed."""
    async with observer.database.transaction() as connection:
        rows = await connection.execute("SELECT status FROM operations WHERE id LIKE 'control-%'")
        found = [status for (status,) in await rows.fetchall()]
    assert set(found) <= {"queued", "running", "completed"}
    return found == ["completed"] * count


@pytest.mark.timeout(900)
async def test_what_the_relay_lost_is_repaired_on_demand(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    environment = environment_of(deployment, pds_network)
    process = await consumer("run", env=environment)
    await process.saying("relay_connected", deadline=90)
    async with (
        observing(pds_network, deployment.settings()) as observer,
        people(pds_network, "asked") as traffic,
    ):
        await agreed(observer)
        assert await process.stopped() == 0
        drift = await drifted(observer, traffic)
        process = await consumer("run", env=environment)
        await process.saying("relay_connected", deadline=90)
        await eventually(lambda: none_open(observer), what="nothing is open", deadline=60)
        await repair(observer, drift)
        await eventually(lambda: asked(observer, 2), what="commands are taken", deadline=60)
        for arguments in (("sync", drift.asker.did), ("refresh", drift.revised.uri, "--json")):
            command_line = await consumer(*arguments, env=environment)
            assert await command_line.ended(60) == 0, command_line
            assert "completed" in command_line.out
        await agreed(observer)
    assert await process.stopped() == 0


@pytest.mark.timeout(900)
async def test_fetcher_and_worker_killed_in_mid_sync_change_nothing_in_the_end(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    environment = environment_of(deployment, pds_network)

    async def started(role: str) -> Consumer:
        process: Consumer = await consumer("run", "--role", role, env=environment)
        await process.saying("process_running", deadline=90)
        return process

    await started("tailer")
    mortals = {role: await started(role) for role in ("fetcher", "worker")}
    async with (
        observing(pds_network, deployment.settings()) as observer,
        people(pds_network, "killed") as traffic,
    ):
        await agreed(observer)
        for _ in range(3):
            for author in traffic.authors:
                if author.active:
                    await command(observer, type="didSync", did=author.did)
            # 20 commits a second while the syncs are under way, and their processes die.
            writing = asyncio.create_task(_write(traffic, commits=60))
            await eventually(lambda: open_operations(observer), what="syncs begin", deadline=60)
            for role, mortal in mortals.items():
                mortal.signal(signal.SIGKILL)
                assert await mortal.ended() == -signal.SIGKILL
                mortals[role] = await started(role)
            await writing
        await eventually(lambda: none_open(observer), what="all are done", deadline=300)
        await agreed(observer)


async def none_open(observer: Observer) -> bool:
    return await open_operations(observer) == 0


async def _write(traffic: Traffic, commits: int) -> None:
    writers = [author for author in traffic.authors if author.active]
    for number in range(commits):
        await writers[number % len(writers)].write(None)
        await asyncio.sleep(0.05)
