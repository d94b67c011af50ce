"""Small chunks that come closely together are written together; nothing else waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from consumer.backfill import Chunk, Entry, Proof
from consumer.fetch.inject import Injector
from consumer.kafka.topics import Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.store.database import Database

GATHER = 0.05
DIDS = [f"did:plc:{'abcdefghijklmnopqrstuvwx'[n:]}{'2' * n}" for n in range(6)]


class Written:
    """Stands for Kafka: when what was written, by the loop's clock."""

    def __init__(self) -> None:
        self.at: list[float] = []

    async def write(self, *_: OutRecord) -> int:
        self.at.append(asyncio.get_running_loop().time())
        return len(self.at)


@pytest.fixture
def written() -> Written:
    return Written()


@pytest.fixture
def injector(written: Written) -> Injector:
    nowhere = cast("Database", None)
    return Injector(cast("Writer", written), Topics("t.", 4), nowhere, 10**9)


def chunk(did: str, size: int = 10) -> Chunk:
    entry = Entry("a.b.c/one", b"cid", bytes(size))
    return Chunk(
        did=did,
        operation="one",
        attempt=1,
        rev="3",
        data=b"",
        commit=b"",
        scope=b"",
        resync_generation=0,
        after=None,
        through=None,
        last=True,
        intervals=(),
        entries=(entry,),
    )


async def test_one_chunk_goes_at_once_and_those_behind_it_together(
    injector: Injector, written: Written
) -> None:
    began = asyncio.get_running_loop().time()
    await injector.put(chunk(DIDS[0]))
    assert len(written.at) == 1
    waiting = [asyncio.create_task(injector.put(chunk(did))) for did in DIDS[1:4]]
    await asyncio.sleep(0)
    assert len(written.at) == 1
    waiting[0].cancel()  # holds up no other
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len(written.at) == 3
    assert written.at[1] - began >= GATHER * 0.9
    last = [asyncio.create_task(injector.put(chunk(did))) for did in DIDS[4:]]
    await asyncio.gather(*last)
    assert written.at[3] - written.at[2] >= GATHER * 0.9
    await asyncio.sleep(2 * GATHER)
    began = asyncio.get_running_loop().time()
    await injector.put(chunk(DIDS[0]))
    assert len(written.at) == 6


@pytest.mark.parametrize(
    "another",
    [
        lambda: chunk(DIDS[1], 100_000),
        lambda: Proof(DIDS[1], "two", 1, "3", "a.b.c/one", None),
    ],
    ids=["a large chunk", "a refresh"],
)
async def test_what_is_large_or_asked_for_alone_never_waits(
    injector: Injector, written: Written, another: Callable[[], Chunk | Proof]
) -> None:
    await injector.put(chunk(DIDS[0]))
    waits = asyncio.create_task(injector.put(chunk(DIDS[2])))
    await injector.put(another())
    assert len(written.at) == 2
    assert not waits.done()
    await waits
