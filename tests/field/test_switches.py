"""Several relays: one dies, another is read, and the first returns; nothing is lost or repeated."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from consumer.config.settings import RelaySettings
from consumer.kafka.topics import Topic
from simulator.frames import commit_frame
from simulator.repo import Repo
from tests.acceptance.test_events import shown
from tests.field.network import Network, Relay, now
from tests.field.product import Product
from tests.field.test_holes import Villagers
from tests.support.consumer import Start
from tests.support.deployment import Deployment

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

SILENCE, FAILOVER, RETURN = 1.0, 2.0, 2.0
SHIFT = 700  # the second relay's seqs are lower by this


@asynccontextmanager
async def of_two_relays(
    deployment: Deployment, network: Network, second: Relay
) -> AsyncIterator[Product]:
    relays = RelaySettings(
        urls=(network.relay.url, second.url),
        start="oldest",
        silence=SILENCE,
        failover_after=FAILOVER,
        return_after=RETURN,
    )
    opened = Product.opened(deployment, network=network, changed={"relay": relays})
    async with opened as product:
        yield product


async def test_what_another_relay_never_had_is_indexed(
    deployment: Deployment, network: Network
) -> None:
    first = network.relay
    async with (
        Relay() as second,
        of_two_relays(deployment, network, second) as product,
        product.running(),
    ):
        village = await Villagers.settled(product, "switch")
        async with first.away():
            await village.live()
            network.relay, network.seq = second, 50
            await network.commit(village.everybody)
            await village.agree()


@dataclass
class Traffic:
    """Commits without a pause; both relays have each of them, under seqs of their own."""

    network: Network
    second: Relay
    repos: list[Repo] = field(default_factory=list)
    commits: int = 0

    async def commit(self) -> None:
        network, repo = self.network, self.repos[self.commits % len(self.repos)]
        commit = await network.commit(repo, lost=True)
        seq = network.next()
        for relay, number in ((network.relay, seq), (self.second, seq - SHIFT)):
            await relay.publish([(number, commit_frame(number, commit, now()))])
        self.commits += 1

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Commit during the block."""

        async def flow() -> None:
            while True:
                await self.commit()
                await asyncio.sleep(0.02)

        flowing = asyncio.create_task(flow())
        try:
            yield
        finally:
            flowing.cancel()
            await asyncio.wait({flowing})
            assert flowing.cancelled()


async def test_a_kill_while_the_second_relay_is_read(
    consumer: Start, deployment: Deployment, network: Network
) -> None:
    async with (
        Relay() as second,
        of_two_relays(deployment, network, second) as product,
    ):
        repos = [(await network.account(f"relayed {n}"))[1] for n in range(6)]
        traffic = Traffic(network, second, repos)
        environment = {
            **deployment.environment(),
            "CHIVE_RELAY__URLS": f"{network.relay.url},{second.url}",
            "CHIVE_RELAY__START": "oldest",
            "CHIVE_RELAY__SILENCE": str(SILENCE),
            "CHIVE_RELAY__FAILOVER_AFTER": str(FAILOVER),
            "CHIVE_RELAY__RETURN_AFTER": str(RETURN),
            "CHIVE_IDENTITY__PLC_URL": network.directory.origin,
            "CHIVE_NETWORK__ALLOW_LOOPBACK": "true",
            "CHIVE_DISCOVERY__SOURCES": network.sources[0].origin,
        }

        async def forwarded(relay: Relay) -> int:
            """Return how many records of ``chive.firehose`` came from ``relay``."""
            records = await product.committed(Topic.FIREHOSE)
            return sum(("relay", relay.url.encode()) in each.headers for each in records)

        async def more(relay: Relay) -> None:
            before = await forwarded(relay)

            async def look() -> bool:
                return await forwarded(relay) > before + 20

            await product.eventually(look, what=f"frames of {relay.url}")

        first = await consumer("run", env=environment)
        await first.saying("process_running")
        events = await consumer("events", "--follow", "--from-start", "--json", env=environment)
        async with traffic.flowing():
            await more(network.relay)
            async with network.relay.away():
                await more(second)
                first.signal(signal.SIGKILL)
                assert await first.ended() == -signal.SIGKILL
                again = await consumer("run", env=environment)
                await more(second)
            await again.saying("relay_switched", relay=network.relay.url, deadline=90.0)
            await more(network.relay)
        await product.agrees(*repos)
        paths = {(repo.account.did, path) for repo in repos for path in await product.stored(repo)}
        assert len(paths) == traffic.commits + 3 * len(repos)
        await product.eventually(lambda: set(shown(events)) == paths, what="all are shown")
        assert len(shown(events)) == len(paths)
        assert await again.stopped() == 0
