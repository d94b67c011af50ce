"""Holes in the firehose: what an account writes in one is indexed, without anybody's doing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import pytest

from simulator.repo import Repo
from tests.field.product import Product
from tests.support.pds import COLLECTION

pytestmark = pytest.mark.services

RETENTION = 10_000  # frames that the relay has forgotten when it is back


@dataclass
class Villagers:
    """Accounts by what a hole hides of them; ``everybody`` else goes on writing.

    ``newborn`` writes its only wanted record, ``returned`` is active again and writes, ``quiet``
    writes its last record, and ``mistaken`` is inactive only by mistake and wrote before.
    """

    product: Product
    newborn: Repo
    returned: Repo
    quiet: Repo
    mistaken: Repo
    everybody: Repo

    @classmethod
    async def settled(cls, product: Product, name: str) -> Self:
        """Bring all of them in step, but for the one that nobody knows and those not active."""
        network = product.network
        await product.eventually(
            lambda: network.sources[0].asked(COLLECTION), what="the first search"
        )
        _, newborn = await network.account(f"newborn {name}", records=0)
        known = [
            (await network.account(f"{who} {name}"))[1]
            for who in ("returned", "quiet", "mistaken", "everybody")
        ]
        for repo in known:
            await network.commit(repo)
        await product.agrees(*known)
        village = cls(product, newborn, *known)
        for repo in (village.returned, village.mistaken):
            await network.says(repo, "deactivated")
            await product.has_status(repo, "deactivated")
        await network.commit(village.mistaken)
        return village

    async def live(self) -> None:
        """Write, with nobody to see it; from now on the listing names the newborn."""
        network = self.product.network
        for repo in (self.newborn, self.returned, self.quiet):
            await network.commit(repo, lost=True)
        network.sources[0].lists(COLLECTION, [self.newborn.account.did])
        assert await self.product.state(self.newborn) == ("", "")

    async def agree(self) -> None:
        """Wait until all is right."""
        await self.product.agrees(
            self.newborn, self.returned, self.quiet, self.mistaken, self.everybody
        )


async def outage(village: Villagers) -> None:
    """Be away for longer than the relay remembers."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.forget()
        network.seq += RETENTION
    await network.commit(village.everybody)


async def unsaid_outage(village: Villagers) -> None:
    """Be away for as long, with a relay that does not say so."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.become()
        network.seq += RETENTION
        await network.commit(village.everybody)


async def reset(village: Villagers) -> None:
    """Let the relay begin its sequence anew, and get beyond where it was."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.become()
        reached, network.seq = network.seq, network.seq - 100
        while network.seq <= reached:
            await network.commit(village.everybody)


async def future_cursor(village: Villagers) -> None:
    """Let the relay begin its sequence anew, and deny our position until it is given up."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.become()
        network.seq = 100
        await network.commit(village.everybody)


Hole = Callable[[Villagers], Awaitable[None]]
HOLES: list[Hole] = [outage, unsaid_outage, reset, future_cursor]


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.__name__)
async def test_what_is_written_in_a_hole_is_indexed(product: Product, hole: Hole) -> None:
    village = await Villagers.settled(product, hole.__name__)
    await hole(village)
    await village.agree()
