"""PostgreSQL restored from a backup beside a Kafka that went on: all events, or a clear refusal."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from functools import partial

from tests.acceptance.test_events import follow, shown
from tests.support.accounts import Accounts
from tests.support.backup import Backups
from tests.support.consumer import Consumer, Start
from tests.support.deployment import Deployment
from tests.support.eventually import eventually

STARTS = 12


def claimed_or_ended(process: Consumer) -> bool:
    return bool(process.said("lane_claimed")) or not process.running


async def killed(process: Consumer) -> None:
    if process.running:
        process.signal(signal.SIGKILL)
    await process.ended()


async def refused(consumer: Start, environment: dict[str, str]) -> None:
    """Check that a process ends at once, and says why and what to read."""
    process = await consumer("run", env=environment)
    assert await process.ended(90) == 1
    assert "do not belong together" in process.lines[-1], process
    assert "restored from an older state" in process.lines[-1]
    assert "docs/backup.md" in process.lines[-1]


async def test_a_backup_beside_a_newer_kafka_is_refused_for_good(
    consumer: Start, deployment: Deployment, accounts: Accounts, backups: Backups
) -> None:
    environment = accounts.environment(deployment)
    first = await consumer("run", env=environment)
    await first.saying("process_running")
    events = await follow(consumer, environment)
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=90)
    await backups.save()
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=90)
    await killed(first)
    await backups.restore()

    chance = random.Random(11)
    for _ in range(STARTS):
        process = await consumer("run", env=environment)
        await accounts.write(1)
        await eventually(partial(claimed_or_ended, process), deadline=90)
        await asyncio.sleep(chance.uniform(0.0, 1.0))  # anywhere in its work
        await killed(process)
    await refused(consumer, environment)
    assert max(Counter(shown(events)).values()) == 1


async def test_an_empty_database_beside_a_full_kafka_is_refused(
    consumer: Start, deployment: Deployment, accounts: Accounts, backups: Backups
) -> None:
    environment = accounts.environment(deployment)
    first = await consumer("run", env=environment)
    await first.saying("process_running")
    events = await follow(consumer, environment)
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=90)
    await killed(first)
    await backups.empty()
    for _ in range(2):
        await refused(consumer, environment)
    assert max(Counter(shown(events)).values()) == 1


async def test_a_backup_that_knows_all_that_is_published_goes_on(
    consumer: Start, deployment: Deployment, accounts: Accounts, backups: Backups
) -> None:
    environment = accounts.environment(deployment)
    first = await consumer("run", env=environment)
    await first.saying("process_running")
    events = await follow(consumer, environment)
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=90)
    os.kill(first.pid, signal.SIGSTOP)
    await backups.save()
    await killed(first)
    await backups.restore()
    second = await consumer("run", env=environment)
    await accounts.write(2)
    await eventually(lambda: set(shown(events)) == accounts.paths, deadline=90)
    assert len(shown(events)) == len(accounts.paths)
    assert await second.stopped() == 0
