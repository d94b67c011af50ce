"""The programs of ``examples`` keep the index that the topic adds up to, however often they die."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from consumer.kafka.reader import Record
from consumer.kafka.transaction import OutRecord
from tests.support import examples
from tests.support.deployment import PARTITIONS
from tests.support.eventful import COLLECTION, ODD, Topics, create, eventful
from tests.support.eventually import eventually
from tests.support.examples import Example, fold
from tests.support.proxy import LOOPBACK, TcpProxy
from tests.support.services import Services

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

KILLS = 4
AWAY = 12.0  # seconds: longer than KafkaJS tries by default
EXAMPLES: dict[str, examples.Build] = {
    "go": examples.go,
    "java": examples.java,
    "python": examples.python,
    "typescript": examples.typescript,
}


@pytest.fixture(scope="module")
async def topics(services: Services) -> AsyncIterator[Topics]:
    async with eventful(services) as topics:
        yield topics


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_keeps_what_the_topic_adds_up_to(
    name: str, topics: Topics, tmp_path: Path
) -> None:
    example = await EXAMPLES[name](tmp_path, topics.harness.deployment.dsn)
    before = await topics.records()
    total = sum(ends(before).values())
    chance = random.Random(name)

    inside = 0
    for _ in range(KILLS):
        async with example.running(topics.servers, topics.events) as process:
            await reached(example, process, min(example.done() + 1, total))
            await asyncio.sleep(chance.random() * 0.01)
        inside += agree(example, before) < total
    assert inside >= 2  # it was killed on its way

    async with example.running(topics.servers, topics.events) as process:
        await reached(example, process, total)
        assert agree(example, before) == total
        # It goes on with what comes.
        repo = list(topics.network.repos.values())[-1]
        await topics.write(repo, create(name))
        await reached(example, process, total + 1)
        after = await topics.records()
        await reached(example, process, sum(ends(after).values()))
    assert agree(example, after) == sum(ends(after).values())
    await is_what_the_consumer_holds(topics, example)


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_does_not_go_on_where_it_would_be_wrong(
    name: str, topics: Topics, tmp_path: Path
) -> None:
    example = await EXAMPLES[name](tmp_path, topics.harness.deployment.dsn)
    place = topics.servers, topics.events
    assert (await example.refusal()).partition("usage: ")[2].lower().startswith("follow")

    # Of two processes on one database, one ends at the next event.
    async with example.running(*place) as one, example.running(*place) as other:
        ended = [asyncio.create_task(each.communicate()) for each in (one, other)]
        async with asyncio.timeout(90.0):
            while not (done := (await asyncio.wait(ended, timeout=0.5))[0]):
                await topics.produce(OutRecord(topics.events, 0, b"no record", None))
        said = b"".join(out for each in done for out, _ in [each.result()])
        assert b"another process" in said
    agree(example, await topics.records())

    example.execute("UPDATE offsets SET at = at - 8 * 86400")
    assert "too long" in await example.refusal(*place)
    # The topic was made anew: it does not have the offset yet.
    example.execute("UPDATE offsets SET at = at + 8 * 86400, next = 1000000000")
    assert "range" in (await example.refusal(*place)).lower()
    assert example.done() == PARTITIONS * 1_000_000_000


async def test_the_examples_wait_for_a_kafka_that_is_away(
    topics: Topics, kafka_proxy: TcpProxy, tmp_path: Path
) -> None:
    place = f"{LOOPBACK}:{kafka_proxy.port}", topics.events
    total = sum(ends(await topics.records()).values())
    async with AsyncExitStack() as stack:
        running = []
        for name, build in EXAMPLES.items():
            (folder := tmp_path / name).mkdir()
            with suppress(pytest.skip.Exception):  # the other tests say what is not installed
                example = await build(folder, topics.harness.deployment.dsn)
                process = await stack.enter_async_context(example.running(*place))
                running.append((example, process))
        await asyncio.gather(*(reached(*each, total) for each in running))
        await kafka_proxy.stop()
        await asyncio.sleep(AWAY)
        await kafka_proxy.start()
        await topics.produce(OutRecord(topics.events, 0, b"no record", None))
        await asyncio.gather(*(reached(*each, total + 1) for each in running))
    records = await topics.records()
    for example, _ in running:
        agree(example, records)


async def is_what_the_consumer_holds(topics: Topics, example: Example) -> None:
    ours = {
        f"at://{did}/{path}": cid
        for did, repo in (await topics.harness.stored()).items()
        for path, cid in repo.items()
    }
    index = example.stored()
    theirs = {uri: cid for uri, (_, cid, _) in index.records.items() if not uri.endswith("/kept")}
    assert theirs == ours
    returned, hidden, deleted, stale, *_ = topics.network.repos
    assert index.accounts[returned] == (True, "active", False)
    assert index.accounts[hidden] == (False, "takendown", False)
    assert index.accounts[deleted][:2] == (False, "deleted")
    assert index.accounts[stale] == (True, "active", True)
    assert index.lanes == {1: ("2026-07-04T14:39:24.503Z", "a")}
    owners = {uri.split("/")[2] for uri in index.shown}
    assert {returned, stale} <= owners
    assert not {hidden, deleted} & owners
    assert hidden in {uri.split("/")[2] for uri in index.records}
    odd = {"$type": COLLECTION, **ODD, "text": ODD["text"].replace("\0", example.nul)}
    assert index.shown[f"at://{stale}/{COLLECTION}/odd"] == (odd, True)
    assert index.shown[f"at://{stale}/{COLLECTION}/cbor"] == (None, True)


async def reached(example: Example, process: asyncio.subprocess.Process, offset: int) -> None:
    """Wait until the example has stored that it has come to ``offset``, of all partitions."""

    async def look() -> bool:
        if process.returncode is not None:
            said, _ = await process.communicate()
            pytest.fail(f"{example.command} has ended with {process.returncode}: {said.decode()}")
        return example.done() >= offset

    await eventually(look, what=f"the example at {offset}", deadline=90.0, every=0.002)


def agree(example: Example, records: list[Record]) -> int:
    """Hold what is stored against the records that it says to have taken in; return how far."""
    found = example.stored()
    assert found == fold(records, found.offsets, example.nul)
    return found.done


def ends(records: list[Record]) -> dict[int, int]:
    return {record.partition: record.offset + 1 for record in records}
