"""Several relays: the next one is read while the first is away, and the first one after that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
from structlog.testing import capture_logs

from consumer import metrics
from consumer.metrics.labels import EpochCause
from tests.integration.tailing import TailerHarness
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.firehose import announced, numbered
from tests.support.harness import Root, running
from tests.support.relay import ScriptedRelay

pytestmark = pytest.mark.services


@pytest.fixture
async def harness(deployment: Deployment) -> AsyncIterator[TailerHarness]:
    async with (
        ScriptedRelay() as second,
        TailerHarness.opened(deployment, relay=ScriptedRelay(), others=[second]) as harness,
    ):
        yield harness


def tailing(harness: TailerHarness) -> Root:
    """Return a tailer of all relays, with short waits."""
    urls = tuple(harness.relays)
    return harness.tailer(
        url=urls[0], urls=urls, start="oldest", failover_after=2.0, return_after=2.0
    ).run


async def reached(harness: TailerHarness, relay: str, seq: int) -> None:
    """Wait until the cursor of ``relay`` is at ``seq``."""

    async def look() -> bool:
        cursor = (await harness.cursors()).get(relay)
        return cursor is not None and cursor.seq == seq

    await eventually(look, what=f"the cursor of {relay} is at {seq}", deadline=90.0)


async def test_the_next_relay_and_back_each_at_its_own_cursor(harness: TailerHarness) -> None:
    first, [second] = harness.relay, harness.others
    first.log, second.log = list(numbered(1_001, 1_100)), list(numbered(1, 50))
    stored = partial(reached, harness)
    async with first:
        urls = tuple(harness.relays)

        async with running(tailing(harness)):
            await stored(urls[0], 1_100)
            await first.__aexit__()
            await stored(urls[1], 50)
        async with running(tailing(harness)):  # goes on with the one read last
            await second.publish(numbered(51, 60))
            await stored(urls[1], 60)
            assert second.cursors[-1] is not None
            await first.__aenter__()
            await first.publish(numbered(1_101, 1_150))
            await stored(urls[0], 1_150)
            await eventually(lambda: asyncio.sleep(0, second.connections == 0), deadline=60.0)
    found = await harness.forwarded()
    by_relay = {url: sorted(each.seq for each in found if each.relay == url) for url in urls}
    assert by_relay == {urls[0]: list(range(1_001, 1_151)), urls[1]: list(range(1, 61))}
    epochs = {url: {each.epoch for each in found if each.relay == url} for url in urls}
    assert len(epochs[urls[0]]) == 2
    assert max(epochs[urls[1]]) < max(epochs[urls[0]])
    told = {epoch for _, epoch in await announced(harness.client, harness.topics)}
    assert told >= epochs[urls[1]] | {max(epochs[urls[0]])}


async def test_going_round_relays_that_are_all_down_says_so_once(harness: TailerHarness) -> None:
    first, [second] = harness.relay, harness.others
    first.log, second.log = list(numbered(1_001, 1_010)), list(numbered(1, 10))

    def begun() -> float:
        return metrics.by_label(metrics.EPOCHS)[EpochCause.RELAY]

    async with first:
        urls = harness.relays
        before = begun()
        with capture_logs() as logs:
            async with running(tailing(harness)):
                await reached(harness, urls[0], 1_010)
                await second.__aexit__()
                async with first.away():
                    switches = metrics.RELAY_SWITCHES._value.get()
                    await eventually(
                        lambda: metrics.RELAY_SWITCHES._value.get() >= switches + 4,
                        what="two rounds",
                        deadline=90.0,
                    )
                    assert begun() == before
                    said = [log["event"] for log in logs if log["log_level"] == "warning"]
                    assert sorted(said) == ["relay_switched", "relay_unreachable"]
                    assert [log["event"] for log in logs].count("tailing_started") == 2
                    await second.__aenter__()
                    await reached(harness, urls[1], 10)
                    assert begun() == before + 1
