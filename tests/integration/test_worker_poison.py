"""Inputs that kill the worker's process: only these are refused, and a question stays behind."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from consumer.errors import Reason
from consumer.verify.frames import peek
from consumer.worker.poison import ALONE_CRASHES, CRASHES
from procedures.syntax import cid_text
from simulator.frames import account_frame
from simulator.network import Network
from tests.support import deadly
from tests.support.consumer import ROOT, bare_environment
from tests.support.deployment import PARTITIONS
from tests.support.eventually import eventually
from tests.support.worker import WorkerHarness

pytestmark = pytest.mark.services

WANTED = ("pub.chive.eprint.submission",)


class Workers:
    """Processes that work on all lanes, one after the other, and die of one frame."""

    def __init__(self, harness: WorkerHarness, poison: bytes) -> None:
        self.harness = harness
        self.deaths = 0
        self._digest = hashlib.sha256(poison).hexdigest()

    async def run(self) -> None:
        """Start a process whenever one has died, until every record is consumed."""
        while not await self.harness.is_consumed():
            async with self._process() as process:
                await self._watch(process)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        async def is_over() -> bool:
            return process.returncode is not None or await self.harness.is_consumed()

        await eventually(is_over, what="an end", deadline=90.0)
        if process.returncode is None:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 60.0) == 0
        else:
            assert process.returncode == deadly.DIED
            self.deaths += 1

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.deadly", self._digest),
            *map(str, range(PARTITIONS)),
            cwd=ROOT,
            env={**bare_environment(), **self.harness.deployment.environment()},
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def introduced(harness: WorkerHarness, accounts: int) -> Network:
    """Return a network of accounts that are known and in step."""
    network = Network(9, accounts=accounts, collections=WANTED)
    harness.keys = network.keys
    async with harness.fetching(), harness.working():
        await harness.publish(network.introduce(3))
        await harness.settled()
    return network


async def letters(harness: WorkerHarness) -> Sequence[tuple[str, bytes | None]]:
    return [(reason, record.value) for reason, record in await harness.dead_letters()]


async def test_a_frame_that_kills_the_process_takes_no_other_with_it(
    harness: WorkerHarness,
) -> None:
    network = await introduced(harness, 12)
    frames = list(network.frames(120))
    poison = frames[60]
    guilty = peek(poison).did
    await harness.publish(frames)
    workers = Workers(harness, poison)
    await workers.run()
    assert workers.deaths == CRASHES + ALONE_CRASHES
    assert await letters(harness) == [(Reason.STALLED, poison)]
    known, stored = await harness.repos(), await harness.stored()
    truth = {
        did: {path: cid_text(cid) for path, (cid, _) in records.items()}
        for did, records in network.truth().items()
    }
    for did in network.keys:
        if did != guilty:
            assert known[did][:2] == ("active", "active")
            assert stored.get(did, {}) == truth[did]
    assert known[str(guilty)][:2] == ("active", "desynchronized")
    assert await harness.rows("SELECT did, kind, cause FROM lookups WHERE kind = 'account'") == [
        (guilty, "account", "loss")
    ]


async def test_an_account_frame_that_kills_the_process_leaves_its_question(
    harness: WorkerHarness,
) -> None:
    network = await introduced(harness, 1)
    [did] = network.keys
    poison = account_frame(network.seq + 1, did, active=False, status="deleted", time=network.time)
    await harness.publish([poison])
    await Workers(harness, poison).run()
    assert await letters(harness) == [(Reason.STALLED, poison)]
    async with harness.fetching(), harness.working():
        await harness.settled()
        await eventually(lambda: _asked(harness), what="an answer")
    assert (await harness.repos())[did][1] == "desynchronized"


async def _asked(harness: WorkerHarness) -> bool:
    return bool(await harness.rows("SELECT did FROM repos WHERE gone_at IS NOT NULL"))


async def test_a_stranger_s_only_frame_that_kills_the_process_is_not_forgotten(
    harness: WorkerHarness,
) -> None:
    network = Network(9, accounts=1, collections=WANTED)
    [did] = network.keys
    poison = list(network.introduce(1))[-1]
    await harness.publish([poison])
    await Workers(harness, poison).run()
    assert await letters(harness) == [(Reason.STALLED, poison)]
    assert await harness.rows("SELECT did, source FROM found") == [(did, "quarantine")]
