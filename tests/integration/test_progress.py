"""What quiet lanes say of themselves: together, and at little cost."""

from __future__ import annotations

import time

import pytest

from consumer import metrics
from consumer.config.settings import WorkerSettings
from consumer.state.progress import Place
from consumer.store import progress
from tests.support.deployment import PARTITIONS
from tests.support.eventually import eventually
from tests.support.worker import RELAY, WorkerHarness

pytestmark = pytest.mark.services

_ROUNDS = 4


async def _receive(harness: WorkerHarness, seq: int) -> None:
    """Be the tailer that has received frames that are not forwarded."""
    async with harness.database.transaction() as connection:
        at, last = Place(1, seq), [0] * PARTITIONS
        await progress.note_received(connection, RELAY, at, None, time.time(), last)


async def _said(harness: WorkerHarness, seq: int) -> None:
    async def look() -> bool:
        said = {event["lane"]: event["seq"] for event in await harness.said()}
        return said == dict.fromkeys(range(PARTITIONS), seq)

    await eventually(look, what=f"every lane is complete up to {seq}", deadline=60, every=0.1)


def _transactions() -> float:
    return float(metrics.TRANSACTIONS.labels("publisher", "committed")._value.get())


async def test_what_quiet_lanes_say_at_one_moment_is_one_transaction(
    harness: WorkerHarness,
) -> None:
    settings = harness.deployment.settings(worker=WorkerSettings(progress_every=1.0))
    await _receive(harness, 1)
    async with harness.working(settings):
        await _said(harness, 1)  # as each lane is claimed
        before, events = _transactions(), len(await harness.said())
        for seq in range(2, 2 + _ROUNDS):
            await _receive(harness, seq)
            await _said(harness, seq)
        said = len(await harness.said()) - events
        assert said >= _ROUNDS * PARTITIONS
        assert _transactions() - before <= said / 2  # a lane may be late on a busy machine
    rows = await harness.rows("SELECT lane, session, seq FROM progress ORDER BY lane")
    assert rows == [(lane, 1, 1 + _ROUNDS) for lane in range(PARTITIONS)]
