"""Health: what makes a process alive, what makes it ready, and the server around both."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from structlog.testing import capture_logs

from consumer import metrics
from consumer.config.settings import HttpSettings
from consumer.errors import Fatal, Transient
from consumer.runtime import health as module
from consumer.runtime.health import Check, Health, application, serving


async def fine() -> None:
    return


async def away() -> None:
    raise Transient("no broker at \x1b[31m127.0.0.1:1")


async def broken() -> None:
    raise KeyError("x")


@pytest.fixture(autouse=True)
def _metrics() -> Iterator[None]:
    metrics.ROOT_UP.labels("tailer").set(1)
    yield
    metrics.ROOT_UP.clear()
    metrics.TAIL_LAG.drop()
    metrics.WORKER_LAG.drop(3)


def health(**checks: Check) -> Health:
    subject = Health(ready_lag=60.0)
    subject.expect(checks, ["tailer"])
    return subject


async def test_a_quiet_network_and_services_away_are_no_fault() -> None:
    ok, detail = health(kafka=away).alive()
    assert ok
    assert detail["roots"] == {"tailer": True}


async def test_a_root_that_does_not_run_is() -> None:
    metrics.ROOT_UP.labels("tailer").set(0)
    ok, detail = health().alive()
    assert not ok
    assert detail["roots"] == {"tailer": False}


async def test_a_stuck_event_loop_is() -> None:
    subject = health()
    subject.loop_delay = 30.0
    assert not subject.alive()[0]


async def test_the_beat_measures_the_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.runtime.health._BEAT_SECONDS", 0.01)
    subject = health()
    beat = asyncio.create_task(subject.beat())
    await asyncio.sleep(0)
    time.sleep(0.1)  # noqa: ASYNC251  # the fault to be measured
    async with asyncio.timeout(5):
        while subject.loop_delay == 0.0:  # noqa: ASYNC110  # a float has no event
            await asyncio.sleep(0)
    assert subject.loop_delay > 0.05
    beat.cancel()


async def test_a_process_that_starts_is_alive_and_not_ready() -> None:
    subject = Health(ready_lag=60.0)
    assert subject.alive()[0]
    ok, detail = await subject.ready()
    assert not ok
    assert detail["checks"]["start"] == {"ok": False, "error": "still starting"}


async def test_ready_when_everything_answers() -> None:
    ok, detail = await health(kafka=fine, postgres=fine).ready()
    assert ok
    assert detail["checks"]["kafka"] == {"ok": True}


async def test_not_ready_says_why() -> None:
    ok, detail = await health(kafka=away, postgres=fine, relay=broken).ready()
    assert not ok
    assert detail["checks"]["kafka"] == {
        "ok": False,
        "error": "no broker at \\x1b[31m127.0.0.1:1",
    }
    assert detail["checks"]["postgres"] == {"ok": True}
    assert "KeyError" in detail["checks"]["relay"]["error"]


async def test_a_check_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consumer.runtime.health._CHECK_SECONDS", 0.01)

    released = asyncio.Event()

    async def hanging() -> None:
        while not released.is_set():  # also when it is cancelled, as a driver's clean-up
            with suppress(asyncio.CancelledError):
                await released.wait()

    subject = health(kafka=hanging)
    _, detail = await subject.ready()
    assert detail["checks"]["kafka"]["error"] == "no answer in 0.01 s"
    subject.expect({}, [])
    assert (await subject.ready())[0]
    released.set()
    await asyncio.sleep(0.05)


async def test_lag_makes_unready_and_names_the_lane() -> None:
    metrics.TAIL_LAG.settled()
    metrics.WORKER_LAG.since(time.time() - 10, 3)
    ok, detail = await health().ready()
    assert ok
    metrics.WORKER_LAG.since(time.time() - 100, 3)
    ok, detail = await health().ready()
    assert not ok
    assert detail["checks"]["lag"]["tailer"] == 0.0
    assert 100 <= detail["checks"]["lag"]["lane 3"] < 110


async def test_checks_are_shared_while_fresh() -> None:
    asked: list[int] = []
    now = [0.0]

    async def counting() -> None:
        asked.append(1)

    subject = Health(60.0, clock=lambda: now[0])
    subject.expect({"kafka": counting}, [])
    await asyncio.gather(*(subject.ready() for _ in range(5)))
    assert len(asked) == 1
    now[0] = 10.0
    await subject.ready()
    assert len(asked) == 2


async def test_the_server_answers_all_three() -> None:
    with capture_logs() as logs:
        async with serving(application(health(kafka=away)), HttpSettings()) as task:
            url = logs[0]["url"]
            async with httpx.AsyncClient() as client:
                alive = await client.get(f"{url}/livez")
                ready = await client.get(f"{url}/readyz")
                exposition = await client.get(f"{url}/metrics")
                nothing = await client.get(f"{url}/nothing")
    assert (alive.status_code, ready.status_code, nothing.status_code) == (200, 503, 404)
    assert ready.json()["ready"] is False
    assert "chive_root_up" in exposition.text
    assert task.done()


@pytest.mark.parametrize(
    ("proxies", "caller"), [((), "127.0.0.1"), (("127.0.0.0/8",), "203.0.113.7")]
)
async def test_only_a_trusted_proxy_names_the_caller(proxies: tuple[str, ...], caller: str) -> None:
    async def who(request: Request) -> PlainTextResponse:
        assert request.client is not None
        return PlainTextResponse(request.client.host)

    app = Starlette(routes=[Route("/", who)])
    with capture_logs() as logs:
        async with serving(app, HttpSettings(), proxies=proxies), httpx.AsyncClient() as client:
            headers = {"X-Forwarded-For": "203.0.113.7"}
            answer = await client.get(logs[0]["url"], headers=headers)
    assert answer.text == caller


async def test_callers_who_do_not_say_what_they_want_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_HEAD_SECONDS", 0.2)
    whole, half = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /livez HTTP/1.1\r\nHo"
    with capture_logs() as logs:
        async with serving(application(health()), HttpSettings(port=0)):
            port = int(str(logs[0]["url"]).rpartition(":")[2])
            for requests in ((), (half,), (whole, half)):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                for request in requests:
                    writer.write(request)
                    if request is whole:
                        assert await reader.readuntil(b"}")
                async with asyncio.timeout(3):
                    await reader.read()
                writer.close()


async def test_a_taken_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Fatal, match=f"cannot listen on 127.0.0.1:{port}"):
            async with serving(application(health()), HttpSettings(port=port)):
                pass
