"""Owning a lane: claim, resume after trouble, release.

Kafka's group says which lanes are ours to claim; that alone gives no right to write.  The claim
is a compare-and-set of the lane's token, and each later transaction repeats it.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from consumer.publish.publisher import LaneLost
from consumer.store import lanes
from consumer.store.database import Database
from consumer.store.lanes import RELEASED, Lane


@dataclass(frozen=True, slots=True)
class Held:
    """A lane that is ours; ``bereft``: its last owner did not release it, so it died."""

    lane: Lane
    bereft: bool


async def claim(database: Database, number: int, token: UUID) -> Held:
    """Own lane ``number`` with ``token``, which nobody else has; the same token may claim again.

    Raises ``LaneLost`` when somebody else was quicker, and ``Transient``.
    """
    async with database.transaction() as connection:
        await lanes.create(connection, number)
        seen = await lanes.read(connection, number)
        if seen is None:
            raise LaneLost(f"lane {number} has no row")
        if seen.token == token:
            return Held(seen, bereft=False)
        mine = await lanes.claim(connection, number, seen.token, token)
        if mine is None:
            raise LaneLost(f"lane {number} was claimed by somebody else")
        return Held(mine, bereft=seen.token != RELEASED)


async def resume(database: Database, held: Lane) -> Lane:
    """Return the lane as it is in Postgres, after trouble.

    Raises ``LaneLost`` when it is not ours any more, and ``Transient``.
    """
    async with database.transaction() as connection:
        lane = await lanes.read(connection, held.lane)
        if lane is None or lane.token != held.token:
            raise LaneLost(f"lane {held.lane} has another owner")
        return lane


async def release(database: Database, lane: Lane) -> None:
    """Give the lane up in good order."""
    async with database.transaction() as connection:
        await lanes.release(connection, lane)
