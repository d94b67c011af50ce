"""Ownership of lanes on a real PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import uuid4

import pytest

from consumer.lanes import owner as lanes
from consumer.lanes.errors import LaneLost
from consumer.store import lanes as store
from consumer.store.database import Database
from consumer.store.rows import RELEASED, Lane

pytestmark = pytest.mark.services

LANE = 2


async def owned(database: Database) -> Lane | None:
    async with database.transaction() as connection:
        return await store.read(connection, LANE)


async def test_a_fresh_lane_is_claimed_at_its_beginning(database: Database) -> None:
    token = uuid4()
    claimed = await lanes.claim(database, LANE, token)
    assert claimed == lanes.ClaimedLane(Lane(LANE, token), unclean_takeover=False, undecided=False)
    assert await owned(database) == claimed.row


async def test_claiming_with_the_same_token_changes_nothing(database: Database) -> None:
    """So that a claim whose COMMIT was not answered can be made again."""
    token = uuid4()
    claimed = await lanes.claim(database, LANE, token)
    assert (await lanes.claim(database, LANE, token)).row == claimed.row


async def test_a_claim_tells_what_the_last_owner_left(database: Database) -> None:
    first = await lanes.claim(database, LANE, uuid4())
    second = await lanes.claim(database, LANE, uuid4())
    assert (second.unclean_takeover, second.undecided) == (True, True)
    await lanes.release(database, first.row, published=True)
    assert await owned(database) == second.row, "a lost lane cannot be released"
    await lanes.release(database, second.row, published=True)
    third = await lanes.claim(database, LANE, uuid4())
    assert (third.unclean_takeover, third.undecided) == (False, False)
    await lanes.release(database, third.row, published=False)
    fourth = await lanes.claim(database, LANE, uuid4())
    assert (fourth.unclean_takeover, fourth.undecided) == (False, True)
    assert (await lanes.claim(database, LANE, fourth.row.token)).undecided


async def test_a_former_owner_cannot_go_on(database: Database) -> None:
    first = (await lanes.claim(database, LANE, uuid4())).row
    assert await lanes.resume(database, first) == first
    second = (await lanes.claim(database, LANE, uuid4())).row
    with pytest.raises(LaneLost):
        await lanes.resume(database, first)
    async with database.transaction() as connection:
        assert not await store.guard(connection, [first])
        assert not await store.advance(connection, [first], [replace(first, firehose_offset=9)])
        assert not await store.set_stalls(connection, first, 1)
    assert await owned(database) == second


async def test_one_of_several_claims_of_the_same_token_wins(database: Database) -> None:
    async with database.transaction() as connection:
        await store.create(connection, LANE)

    async def attempt() -> Lane | None:
        async with database.transaction() as connection:
            return await store.claim(connection, LANE, RELEASED, uuid4())

    winners = [lane for lane in await asyncio.gather(*(attempt() for _ in range(5))) if lane]
    assert winners == [await owned(database)]


async def test_an_owner_with_an_outdated_position_cannot_write(database: Database) -> None:
    """A delayed transaction of our own has moved the lane: what we believe is too old."""
    believed = (await lanes.claim(database, LANE, uuid4())).row
    moved = replace(believed, firehose_offset=10, last_seq=10, last_out_seq=4)
    async with database.transaction() as connection:
        assert await store.advance(connection, [believed], [moved])
    async with database.transaction() as connection:
        assert not await store.guard(connection, [believed])
        assert not await store.advance(connection, [believed], [moved])
        assert await store.guard(connection, [moved])
