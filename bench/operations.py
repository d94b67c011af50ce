"""Syncs and refreshes, from the command to the last event.

A deployment of its own has a process for each role, and a scripted PLC directory and PDS.
In this order: the first sync of a large repository; the same again, when nothing has changed; the
same with every record republished, while other accounts write at a steady rate (their lag is
measured); many small repositories queued at once; refreshes over XRPC, one after the other.  Each
step checks that what it asked for has completed, with the right counts.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import psutil

from bench import hosted
from bench.commands import command
from bench.deployment import Deployment, deployed, last_seqs
from bench.hosted import RKEY, WANTED, Spec
from bench.measured import Measured, between
from bench.processes import RelayProcess, answering, consumer, free_port, hosting, relaying
from bench.traffic import Traffic
from consumer.embedded import EmbeddedStack
from consumer.embedded.ports import LOOPBACK
from consumer.embedded.process import Server
from consumer.errors import Fatal
from procedures.contract import REFRESH_RECORD
from simulator.account import Account

LARGE, UNCHANGED, AGAIN, MANY, REFRESH = (
    "sync-large",
    "sync-unchanged",
    "sync-again",
    "sync-many",
    "refresh",
)

_ROLES = ("tailer", "worker", "fetcher")
_LIVE_COMMITS, _LIVE_EVERY = 20, 0.1  # commits, and seconds between them
_POLL = 0.02
_DEADLINE = 600.0  # seconds
_CALLERS = 10
_TOKEN_SECONDS = 50
_MEBIBYTE = 1024 * 1024


@dataclass
class Findings:
    """Steps by name, counted in records, repositories or calls.

    ``lags``: seconds from the relay to the events of commits during a large sync.
    ``calls``: seconds of each refresh.  ``memory``: the fetcher's largest resident size in MiB.
    """

    steps: dict[str, Measured] = field(default_factory=dict)
    lags: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    memory: float = 0.0

    def figures(self) -> dict[str, float]:
        """Return the figures that are not costs: seconds, milliseconds and MiB."""
        percentiles = statistics.quantiles(self.calls, n=100)
        return {
            "live_lag_median_s": statistics.median(self.lags),
            "live_lag_worst_s": max(self.lags),
            "fetcher_peak_mib": self.memory,
            "refresh_p50_ms": percentiles[49] * 1e3,
            "refresh_p99_ms": percentiles[98] * 1e3,
        }


async def measure(
    stack: EmbeddedStack, directory: Path, traffic: Traffic, spec: Spec, calls: int
) -> Findings:
    """Measure every step; ``traffic`` is what the others write, ``calls`` how many refreshes."""
    found = Findings()
    path = await asyncio.to_thread(hosted.make, spec)
    async with _running(stack, directory, traffic, path) as run:
        large = hosted.large().did
        async with run.watching_memory(found):
            found.steps[LARGE] = await run.sync([large], spec.large, created=spec.wanted)
            found.steps[UNCHANGED] = await run.sync([large], spec.large, created=0)
            async with run.living(found):
                found.steps[AGAIN] = await run.sync([large], spec.large, created=0, emit="all")
        small = [hosted.small(number) for number in range(spec.small)]
        found.steps[MANY] = await run.sync(
            [account.did for account in small], spec.small, created=spec.small * spec.records // 2
        )
        found.steps[REFRESH] = await run.refresh(small[:_CALLERS], calls, found.calls)
    return found


@asynccontextmanager
async def _running(
    stack: EmbeddedStack, directory: Path, traffic: Traffic, path: Path
) -> AsyncIterator[_Run]:
    async with AsyncExitStack() as running:
        enter = running.enter_async_context
        deployment = await enter(deployed(stack, directory, "operations"))
        relay = await enter(relaying(traffic, deployment.directory))
        _, origin = await enter(hosting(path, deployment.directory))
        port = free_port()
        environment = deployment.environment(
            relay.url,
            CHIVE_IDENTITY__PLC_URL=origin,
            CHIVE_NETWORK__ALLOW_LOOPBACK="true",
            CHIVE_GATEWAY__BIND=f"{LOOPBACK}:{port}",
            CHIVE_GATEWAY__SERVICE_DID=_service(port),
        )
        await deployment.know(traffic.keys)
        servers = {
            role: await enter(consumer(role, deployment.directory, environment))
            for role in (*_ROLES, "gateway")
        }
        gateway = f"http://{LOOPBACK}:{port}"
        await servers["gateway"].wait_ready(lambda: answering(gateway), _DEADLINE)
        run = _Run(deployment, relay, servers, traffic, port)
        await run.live(traffic.opening)
        yield run


def _service(port: int) -> str:
    return f"did:web:{quote(f'localhost:{port}')}"


@dataclass(slots=True)
class _Run:
    """The processes of the deployment, and how much of the traffic has passed."""

    deployment: Deployment
    relay: RelayProcess
    servers: dict[str, Server]
    traffic: Traffic
    port: int
    at: int = 0  # frames allowed so far

    async def sync(
        self, dids: Sequence[str], count: int, *, created: int, emit: str = "changes"
    ) -> Measured:
        """Measure syncs of ``dids``, requested together; costs are per one of ``count``."""
        groups = {name: [server] for name, server in self.servers.items()}
        begun = self.deployment.usage(**groups)
        commands = await command(
            self.deployment, [{"type": "didSync", "did": did, "emit": emit} for did in dids]
        )
        await commands.applied(self.servers.values(), _DEADLINE)
        seconds = time.time() - begun.time
        ended = self.deployment.usage(**groups)
        await commands.check(created)
        return between(begun, ended, count, seconds=seconds)

    async def refresh(self, accounts: Sequence[Account], calls: int, took: list[float]) -> Measured:
        """Measure refreshes of one record of each account, asked for by the accounts in turn."""
        groups = {name: [server] for name, server in self.servers.items()}
        async with httpx.AsyncClient(
            base_url=f"http://{LOOPBACK}:{self.port}", trust_env=False, timeout=60.0
        ) as client:
            for account in accounts:  # whose keys the gateway knows from now on
                await self._refresh(client, account)
            begun = self.deployment.usage(**groups)
            for account in islice(cycle(accounts), calls):
                took += [await self._refresh(client, account)]
            ended = self.deployment.usage(**groups)
        return between(begun, ended, calls, seconds=ended.time - begun.time)

    async def live(self, commits: int) -> float:
        """Let ``commits`` of other accounts pass; return the seconds to their last event."""
        passed = self.traffic.frames[self.at : self.at + commits]
        if len(passed) < commits:
            raise Fatal("the traffic is too short for this")
        self.at += commits
        last, begun = last_seqs(self.deployment.services.topics, passed), time.monotonic()
        await self.relay.allow(self.at)
        while not await self.deployment.has_published(last):
            if time.monotonic() - begun > _DEADLINE:
                raise Fatal(f"commits are not published after {_DEADLINE:.0f} s")
            await asyncio.sleep(_POLL)
        return time.monotonic() - begun

    @asynccontextmanager
    async def living(self, found: Findings) -> AsyncIterator[None]:
        """Let other accounts write during the block, and record their lags."""

        async def write() -> None:
            while True:
                lag = await self.live(_LIVE_COMMITS)
                found.lags.append(lag)
                await asyncio.sleep(max(0.0, _LIVE_EVERY - lag))

        async with _beside(write()):
            yield

    @asynccontextmanager
    async def watching_memory(self, found: Findings) -> AsyncIterator[None]:
        """Record the fetcher's largest resident size during the block."""
        fetcher = psutil.Process(self.servers["fetcher"].pid)

        async def watch() -> None:
            while True:
                found.memory = max(found.memory, fetcher.memory_info().rss / _MEBIBYTE)
                await asyncio.sleep(_POLL)

        async with _beside(watch()):
            yield

    async def _refresh(self, client: httpx.AsyncClient, account: Account) -> float:
        token = _token(account, _service(self.port), REFRESH_RECORD)
        body = {"uri": f"at://{account.did}/{WANTED}/{RKEY}"}
        began = time.monotonic()
        answer = await client.post(
            f"/xrpc/{REFRESH_RECORD}", json=body, headers={"Authorization": f"Bearer {token}"}
        )
        took = time.monotonic() - began
        if not answer.is_success or not answer.json().get("refreshed"):
            raise Fatal(f"a refresh failed: {answer.status_code} {answer.text[:200]}")
        return took


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run ``work``, which does not end by itself, during the block."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _token(account: Account, audience: str, method: str) -> str:
    """Return a service-auth token, as the PDS of ``account`` would sign it."""
    now = int(time.time())
    claims = {
        "iss": account.did,
        "aud": audience,
        "lxm": method,
        "iat": now,
        "exp": now + _TOKEN_SECONDS,
        "jti": str(uuid4()),
    }
    text = f"{_segment({'typ': 'JWT', 'alg': 'ES256K'})}.{_segment(claims)}"
    return f"{text}.{_base64(account.sign(text.encode()))}"


def _segment(value: Mapping[str, object]) -> str:
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
