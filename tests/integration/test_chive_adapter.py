"""The adapter brings every event of a record to Chive's queue, whatever is killed on the way."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.chive_adapter import Adapter, agree, built, due, jobs, place, reaches, take
from tests.support.eventful import Topics, create, eventful
from tests.support.eventually import eventually
from tests.support.redis import Redis
from tests.support.services import Services

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

KILLS = 3
DEPTH = 100
CHUNK = 50  # the adapter looks at the queue before each
AWAY = 15.0  # seconds: longer than Kafka waits for a member that says nothing


@pytest.fixture(scope="module")
async def topics(services: Services) -> AsyncIterator[Topics]:
    async with eventful(services) as topics:
        yield topics


@pytest.fixture
async def program() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    return await built()


async def test_every_event_is_in_the_queue_whatever_is_killed(
    program: Path, topics: Topics, redis: Redis
) -> None:
    adapter = Adapter(program, topics, redis.address)
    records = await topics.records()
    wanted = due(records, adapter.group)
    chance = random.Random(1)

    inside = 0
    for _ in range(KILLS):
        before = len(await jobs(redis))
        async with adapter.running() as process:
            await more_than(before, redis, process)
            await asyncio.sleep(chance.random() * 0.02)
        offsets = await adapter.offsets()
        agree(await jobs(redis), wanted, offsets)
        inside += not reaches(offsets, records)
    assert inside >= 2  # it was killed on its way

    async with adapter.running() as process:
        before = len(await jobs(redis))
        await more_than(before, redis, process)
        redis.kill()
        await topics.write(list(topics.network.repos.values())[-1], create("meanwhile"))
        records = await topics.records()
        wanted = due(records, adapter.group)
        await asyncio.sleep(AWAY)
        offsets = await adapter.offsets()
        assert not reaches(offsets, records)
        process.terminate()  # Redis being away does not keep it
        assert await asyncio.wait_for(process.wait(), 60.0) == 0
    assert await adapter.offsets() == offsets

    async with adapter.running() as process:
        await asyncio.sleep(AWAY / 5)
        await redis.start()
        agree(await jobs(redis), wanted, offsets)  # nothing was acknowledged and lost
        await finished(adapter, process)
        agree(await jobs(redis), wanted, await adapter.offsets())
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60.0) == 0


async def test_a_full_queue_holds_the_adapter_back_and_nothing_gets_lost_when_it_stops(
    program: Path, topics: Topics, redis: Redis
) -> None:
    adapter = Adapter(program, topics, redis.address, depth=DEPTH)
    records = await topics.records()
    wanted = due(records, adapter.group)

    async with adapter.running() as process:
        await more_than(DEPTH - 1, redis, process)
        await asyncio.sleep(AWAY)
        taken = await jobs(redis)
        assert DEPTH <= len(taken) < DEPTH + CHUNK
        offsets = await adapter.offsets()
        agree(taken, wanted, offsets)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60.0) == 0
    assert await adapter.offsets() == offsets
    assert await jobs(redis) == taken

    await take(redis)
    async with adapter.running() as process:

        async def all_taken() -> bool:
            assert process.returncode is None
            some = await take(redis)
            assert len(some) < DEPTH + CHUNK
            taken.extend(some)
            return reaches(await adapter.offsets(), records)

        await eventually(all_taken, what="the queue takes all", deadline=120.0)
        taken += await take(redis)
    agree(taken, wanted, await adapter.offsets())


async def test_a_handler_gets_every_event_in_order(
    program: Path, topics: Topics, tmp_path: Path
) -> None:
    handler, file = tmp_path / "handler.mjs", tmp_path / "handled"
    handler.write_text(_HANDLER.format(file=json.dumps(str(file))))
    file.touch()
    adapter = Adapter(program, topics, str(handler))
    records = await topics.records()
    wanted = due(records, adapter.group)

    def handled() -> list[str]:
        return file.read_text().split("\n")[:-1]

    async with adapter.running() as process:
        await eventually(lambda: len(handled()) > 200, what="events handled", deadline=90.0)
    async with adapter.running() as process:
        await finished(adapter, process)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60.0) == 0
    events = [json.loads(line) for line in handled()]
    places = [place(event) for event in events]
    assert len(set(places)) < len(places)  # some came again
    first = dict(zip(reversed(places), reversed(events), strict=True))
    once = [first[where] for where in dict.fromkeys(places)]
    agree([(wanted[place(each)].id, each) for each in once], wanted, await adapter.offsets())
    last = dict(places)  # by URI: what was handled last is the newest
    assert last == {uri: max(offset for other, offset in places if other == uri) for uri in last}


_HANDLER = """
import {{ appendFileSync }} from 'node:fs'
let count = 0
export default async function handle(event) {{
  if ([90, 107, 123].includes(++count)) throw new Error('once')
  appendFileSync({file}, JSON.stringify(event) + '\\n')
}}
"""


async def more_than(count: int, redis: Redis, process: Process) -> None:
    """Wait until the queue has more jobs than these."""

    async def look() -> bool:
        assert process.returncode is None
        waiting: int = await redis.call("LLEN", "bull:firehose-events:wait")
        return waiting > count

    await eventually(look, what=f"more than {count} jobs", deadline=90.0, every=0.002)


async def finished(adapter: Adapter, process: Process) -> None:
    """Wait until the adapter has written the offset of all that is in the topic."""
    records = await adapter.topics.records()

    async def look() -> bool:
        assert process.returncode is None
        return reaches(await adapter.offsets(), records)

    await eventually(look, what="the end of the topic", deadline=90.0)
