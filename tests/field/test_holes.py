"""Holes in the firehose: what an account writes in one is indexed, without anybody's doing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

import pytest
from websockets.asyncio.server import ServerConnection

from simulator.frames import error_frame, info_frame
from simulator.repo import Repo
from tests.field.product import Product
from tests.support.pds import COLLECTION
from tests.support.relay import ScriptedRelay, sends

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


async def outage(village: Villagers, *said: bytes) -> None:
    """Be away for longer than the relay remembers; ``said`` is what it says of that."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.log.clear()
        network.seq += RETENTION
        if said:
            network.relay.behave(sends(*said, then=ScriptedRelay.play))
    await network.commit(village.everybody)


async def forgotten(village: Villagers) -> None:
    await outage(village)


async def forgotten_and_said(village: Villagers) -> None:
    await outage(village, info_frame("OutdatedCursor", "Requested cursor exceeded limit"))


async def reset(village: Villagers) -> None:
    """Let the relay begin its sequence anew, and get beyond where it was."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.log.clear()
        reached, network.seq = network.seq, 900
        while network.seq <= reached:
            await network.commit(village.everybody)


async def future_cursor(village: Villagers) -> None:
    """Let the relay deny the position for as long as it is asked from it."""
    network = village.product.network
    async with network.relay.away():
        await village.live()
        network.relay.log.clear()
        network.seq = 100
        network.relay.behave(denies)
    await network.commit(village.everybody)


async def denies(relay: ScriptedRelay, connection: ServerConnection, cursor: int | None) -> None:
    """Say FutureCursor to everybody who asks from a position."""
    if not cursor:
        await relay.play(connection, cursor)
        return
    relay.behave(denies)
    await sends(error_frame("FutureCursor", "Cursor in the future."))(relay, connection, cursor)


Hole = Callable[[Villagers], Awaitable[None]]
HOLES: list[Hole] = [forgotten, forgotten_and_said, reset, future_cursor]


@pytest.mark.parametrize("hole", HOLES, ids=lambda hole: hole.__name__)
async def test_what_is_written_in_a_hole_is_indexed(product: Product, hole: Hole) -> None:
    village = await Villagers.settled(product, hole.__name__)
    await hole(village)
    await village.agree()
