"""Each token once."""

from __future__ import annotations

import asyncio
from collections import Counter

from procedures.replays import MemoryReplays, Use


async def test_of_simultaneous_uses_exactly_one_is_the_first() -> None:
    replays = MemoryReplays()
    uses = await asyncio.gather(*(replays.use("did:a:b", "1", 60, 0) for _ in range(50)))
    assert Counter(uses) == {Use.FIRST: 1, Use.AGAIN: 49}


async def test_tokens_of_different_issuers_and_ids_differ() -> None:
    replays = MemoryReplays()
    pairs = [("did:a:b", "1"), ("did:a:b", "2"), ("did:a:c", "1")]
    assert [await replays.use(i, j, 60, 0) for i, j in pairs] == [Use.FIRST] * 3


async def test_expired_ones_are_forgotten_and_no_others() -> None:
    replays = MemoryReplays()
    await replays.use("did:a:b", "long", 60, 0)
    await replays.use("did:a:b", "short", 30, 0)
    assert await replays.use("did:a:c", "x", 90, 30) == Use.FIRST
    assert len(replays) == 2
    assert await replays.use("did:a:b", "long", 60, 59.9) == Use.AGAIN
    assert await replays.use("did:a:b", "long", 120, 60) == Use.FIRST


async def test_full_means_refused_until_something_expires() -> None:
    replays = MemoryReplays(capacity=2, per_issuer=2)
    assert await replays.use("did:a:b", "1", 10, 0) == Use.FIRST
    assert await replays.use("did:a:c", "1", 20, 0) == Use.FIRST
    assert await replays.use("did:a:d", "1", 20, 0) == Use.FULL
    assert await replays.use("did:a:c", "1", 20, 0) == Use.AGAIN
    assert await replays.use("did:a:d", "1", 20, 10) == Use.FIRST


async def test_one_issuer_cannot_fill_it_for_the_others() -> None:
    replays = MemoryReplays(capacity=10, per_issuer=3)
    uses = [await replays.use("did:a:b", str(n), 60, 0) for n in range(5)]
    assert uses == [Use.FIRST] * 3 + [Use.ISSUER_FULL] * 2
    assert await replays.use("did:a:c", "1", 60, 0) == Use.FIRST
    assert await replays.use("did:a:b", "9", 90, 60) == Use.FIRST
