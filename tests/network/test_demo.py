"""The demo's claim as a test: on a real PDS, the events, the rows and the PDS agree."""

from __future__ import annotations

import asyncio

from demo.local_network import LocalNetwork
from demo.observe import observing
from demo.traffic import Traffic
from tests.support.consumer import Start
from tests.support.deployment import Deployment

HAPPENINGS = 5
SECONDS = 15.0


async def test_events_rows_and_the_pds_agree(
    pds_network: LocalNetwork, deployment: Deployment, consumer: Start
) -> None:
    environment = deployment.environment() | pds_network.endpoints.environment()
    process = await consumer("run", env=environment)
    await process.saying("relay_connected", deadline=90)
    traffic = Traffic(
        pds_network.endpoints, seed=7, accounts=6, rate=20, span=SECONDS, people="agreed"
    )
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(SECONDS, stop.set)
    try:
        await traffic.run(stop)
    finally:
        await traffic.close()
    assert traffic.done["happenings"] == HAPPENINGS
    assert not traffic.refused

    async with observing(pds_network, deployment.settings()) as observer:
        left = await observer.caught_up(deadline=60)
        assert left.nothing, str(left)
        comparison = await observer.compared()
    assert comparison.differences == []
    assert {"record create", "record update", "record delete", "tombstones"} <= set(
        comparison.events
    )
    assert comparison.events["account"] >= 3
    assert comparison.events["identity"] >= 1
    assert comparison.accounts["deactivated"] >= 1
    assert all(min(counts) > 0 for counts in comparison.collections.values())
    assert await process.stopped() == 0
