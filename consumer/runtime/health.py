"""One small HTTP server per process: ``/livez``, ``/readyz`` and ``/metrics``.

- ``/livez`` answers 200 while the process works: its event loop is on time and every root runs.
  A quiet network or an unreachable service is no fault of the process.
- ``/readyz`` answers 200 while everything it needs answers and its lag is below
  ``http.ready_lag``; else 503.  The JSON body says which check failed and why.
- Checks run at most once in ``_FRESH_SECONDS``, however often they are requested.  None is waited
  for longer than ``_CHECK_SECONDS``, whatever hangs; one that hangs goes on, and no second is made.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import h11
import structlog
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from consumer import metrics
from consumer.config.settings import HttpSettings
from consumer.errors import ChiveError, Fatal, Transient
from consumer.printable import escape

Check = Callable[[], Awaitable[None]]

_FRESH_SECONDS = 2.0
_CHECK_SECONDS = 4.0
_BEAT_SECONDS = _TICK_SECONDS = 1.0
_STUCK_SECONDS = 10.0
_HEAD_SECONDS = 10.0  # for the head of a request

_log = structlog.get_logger()


def lag(now: float) -> dict[str, float]:
    """Return the lag in seconds of the tailer and of each lane in this process."""
    ages = [("tailer", age) for age in metrics.TAIL_LAG.read(now).values()]
    ages += [(f"lane {lane}", age) for lane, age in metrics.WORKER_LAG.read(now).items()]
    return {name: round(seconds, 3) for name, seconds in ages}


class Health:
    """What this process says of itself.

    A process that has not been told what to expect is still starting: alive, not ready.
    """

    def __init__(self, ready_lag: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._checks: dict[str, Check] = {"start": self._starting}
        self._waiting: str | None = None
        self._roots: tuple[str, ...] = ()
        self._ready_lag = ready_lag
        self._clock = clock
        self._last: tuple[float, dict[str, Any]] | None = None
        self._asking = asyncio.Lock()
        self._asked: dict[str, asyncio.Task[None]] = {}
        self.loop_delay = 0.0

    def expect(self, checks: Mapping[str, Check], roots: Collection[str]) -> None:
        """Say what must hold from here on.

        ``checks`` raise when the service they ask does not answer (a ``ChiveError`` for a failure
        of a known kind); ``roots`` are the names that must be running.
        """
        self._checks, self._roots, self._last = dict(checks), tuple(roots), None
        for task in self._asked.values():
            task.cancel()
        self._asked = {}

    def waiting(self, reason: str | None) -> None:
        """Say what the start waits for; None: for nothing any more."""
        self._waiting = reason

    async def _starting(self) -> None:
        raise Transient(f"still starting: {self._waiting}" if self._waiting else "still starting")

    def alive(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the process works, and the detail."""
        up = metrics.by_label(metrics.ROOT_UP)
        running = {name: up.get(name) == 1 for name in self._roots}
        ok = all(running.values()) and self.loop_delay < _STUCK_SECONDS
        return ok, {"alive": ok, "roots": running, "loopDelay": round(self.loop_delay, 4)}

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether the process can do its work now, and the detail."""
        checks = dict(await self._answers())
        seconds = lag(time.time())
        worst = max(seconds.values(), default=0.0)
        checks["lag"] = {"ok": worst < self._ready_lag, "limit": self._ready_lag, **seconds}
        ok = all(check["ok"] for check in checks.values())
        return ok, {"ready": ok, "checks": checks}

    async def _answers(self) -> dict[str, Any]:
        async with self._asking:
            if self._last is None or self._clock() - self._last[0] >= _FRESH_SECONDS:
                checks = self._checks
                answers = await asyncio.gather(*(self._ask(*each) for each in checks.items()))
                self._last = (self._clock(), dict(zip(checks, answers, strict=True)))
            return self._last[1]

    async def _ask(self, name: str, check: Check) -> dict[str, Any]:
        """Return what the check says, or that it hangs: its cancellation may hang as well."""
        task = self._asked.get(name)
        if task is None or task.done():
            task = self._asked[name] = asyncio.create_task(_run(check), name=f"check-{name}")
        await asyncio.wait({task}, timeout=_CHECK_SECONDS)
        if not task.done():
            return {"ok": False, "error": f"no answer in {_CHECK_SECONDS:g} s"}
        error = asyncio.CancelledError("stopped") if task.cancelled() else task.exception()
        if error is None:
            return {"ok": True}
        said = str(error) if isinstance(error, ChiveError) else f"{type(error).__name__}: {error}"
        return {"ok": False, "error": escape(said)}

    async def beat(self) -> None:
        """Measure how late the event loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT_SECONDS
            await asyncio.sleep(_BEAT_SECONDS)
            self.loop_delay = max(0.0, loop.time() - due)
            metrics.LOOP_DELAY.set(self.loop_delay)


async def _run(check: Check) -> None:
    await check()


def application(health: Health) -> Starlette:
    """Return the ASGI application."""

    async def livez(_request: Request) -> Response:
        ok, detail = health.alive()
        return JSONResponse(detail, 200 if ok else 503)

    async def readyz(_request: Request) -> Response:
        ok, detail = await health.ready()
        return JSONResponse(detail, 200 if ok else 503)

    async def exposition(_request: Request) -> Response:
        return Response(generate_latest(metrics.REGISTRY), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", exposition),
        ]
    )


class _Protocol(H11Protocol):
    """uvicorn's server, with a deadline for clients that send nothing, or half a head."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._deadline = self.loop.call_later(_HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._clear_deadline()
        elif self._deadline is None:  # the next request has begun
            self._deadline = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._clear_deadline()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Server(uvicorn.Server):
    """uvicorn, without its own idea of signals and of time.

    It would look ten times a second whether it is to end, and once a second at the date.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending = asyncio.Event()

    def end(self) -> None:
        """End serving."""
        self.should_exit = True
        self._ending.set()

    async def main_loop(self) -> None:
        """Tick until told to end."""
        while not await self.on_tick(0):
            with anyio.move_on_after(_TICK_SECONDS):
                await self._ending.wait()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _said(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)


def _listening(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        raise Fatal(
            f"http: cannot listen on {settings.host}:{settings.port}: {_said(error)}"
        ) from error


@asynccontextmanager
async def serving(
    app: Starlette,
    settings: HttpSettings,
    name: str = "http",
    proxies: Sequence[str] = (),
) -> AsyncIterator[asyncio.Task[None]]:
    """Serve ``app`` for the length of the block; the task ends when the server does.

    ``name`` is the server's in the log; ``proxies`` are the addresses or networks
    whose ``X-Forwarded-For`` names the caller.
    """
    with _listening(settings) as listener:
        host, port = listener.getsockname()[:2]
        server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                lifespan="off",
                access_log=False,
                http=_Protocol,
                ws="none",
                proxy_headers=bool(proxies),
                forwarded_allow_ips=list(proxies),
                timeout_graceful_shutdown=1,
            )
        )
        task = asyncio.create_task(server.serve(sockets=[listener]), name="http")
        _log.info(
            "server_listening",
            server=name,
            url=f"http://{f'[{host}]' if ':' in host else host}:{port}",
        )
        try:
            yield task
        finally:
            server.end()
            await asyncio.wait({task})
