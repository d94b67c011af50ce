"""Roots that drain, die, or wait infrastructure out; signals of a real process."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from consumer.errors import Fatal, Transient
from consumer.runtime import lifecycle
from consumer.runtime.lifecycle import Backoff, RootDied, supervise

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "_end_in_any_case", lambda _code: None)


async def idle(stop: asyncio.Event) -> None:
    await stop.wait()


async def teller(stop: asyncio.Event) -> None:
    """Tell everyone to stop, once all roots run."""
    asyncio.get_running_loop().call_later(0.01, stop.set)
    await stop.wait()


def failing(error: Exception) -> Callable[[asyncio.Event], Coroutine[object, object, None]]:
    async def root(_stop: asyncio.Event) -> None:
        raise error

    return root


async def test_roots_drain_when_told_to_stop() -> None:
    drained: list[str] = []

    async def draining(stop: asyncio.Event) -> None:
        await stop.wait()
        await asyncio.sleep(0)
        drained.append("yes")

    await supervise({"a": draining, "b": draining, "teller": teller}, asyncio.Event())
    assert drained == ["yes", "yes"]


async def test_a_root_that_does_not_drain_is_cancelled() -> None:
    cancelled: list[str] = []

    async def stubborn(_stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("yes")
            raise

    await supervise({"stubborn": stubborn, "teller": teller}, asyncio.Event(), drain=0.01)
    assert cancelled == ["yes"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Fatal("disk is gone"), "disk is gone"), (KeyError("x"), "KeyError: 'x'")],
)
async def test_a_root_that_dies_stops_the_others(error: Exception, reason: str) -> None:
    drained: list[str] = []

    async def draining(stop: asyncio.Event) -> None:
        await stop.wait()
        drained.append("yes")

    stop = asyncio.Event()
    with pytest.raises(RootDied) as caught:
        await supervise({"tailer": failing(error), "worker": draining}, stop)
    assert (caught.value.root, caught.value.reason) == ("tailer", reason)
    assert stop.is_set()
    assert drained == ["yes"]


async def test_a_root_that_returns_unasked_has_died() -> None:
    async def short(_stop: asyncio.Event) -> None:
        await asyncio.sleep(0)

    with pytest.raises(RootDied, match="without being told to stop"):
        await supervise({"a": short, "b": idle}, asyncio.Event())


async def test_a_root_that_dies_while_draining_is_told_too() -> None:
    async def dying(stop: asyncio.Event) -> None:
        await stop.wait()
        raise Fatal("while draining")

    with pytest.raises(RootDied, match="while draining"):
        await supervise({"a": dying, "teller": teller}, asyncio.Event())


async def test_cancelling_supervise_cancels_the_roots() -> None:
    ended = asyncio.Event()

    async def root(_stop: asyncio.Event) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(supervise({"a": root}, asyncio.Event()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_a_transient_error_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle.Backoff, "pause", lambda _self: 0.0)
    attempts: list[int] = []

    async def flaky(stop: asyncio.Event) -> None:
        attempts.append(1)
        if len(attempts) < 5:
            raise Transient("Kafka is away")
        stop.set()

    await supervise({"flaky": flaky}, asyncio.Event())
    assert len(attempts) == 5


async def test_a_pause_between_attempts_ends_when_told_to_stop() -> None:
    stop = asyncio.Event()

    async def flaky(_stop: asyncio.Event) -> None:
        asyncio.get_running_loop().call_soon(stop.set)
        raise Transient("Kafka is away")

    async with asyncio.timeout(5):
        await supervise({"flaky": flaky}, stop)


def test_backoff_doubles_up_to_its_longest_with_jitter() -> None:
    backoff = Backoff(first=1.0, longest=4.0)
    for most in (1.0, 2.0, 4.0, 4.0):
        assert most / 2 <= backoff.pause() <= most
    backoff.reset()
    assert backoff.pause() <= 1.0


PROGRAM = """
import asyncio, sys, time
from consumer.runtime import lifecycle

lifecycle.STOP_SECONDS = 0.7

async def main(stop):
    print("ready", flush=True)
    await stop.wait()
    print("draining", flush=True)
    if sys.argv[1] == "hang":
        time.sleep(60)
    if sys.argv[1] == "late":
        await asyncio.sleep(60)

lifecycle.run(main)
"""


def started(behaviour: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, behaviour], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def awaited(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    with process.stdout:
        assert "draining" in process.stdout.read()
    return process.wait(timeout=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number: signal.Signals) -> None:
    process = started("drain")
    process.send_signal(number)
    assert awaited(process) == 0


def test_the_second_signal_kills_even_a_loop_that_hangs() -> None:
    process = started("hang")
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    while process.stdout.readline() != "draining\n":
        pass
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    with process.stdout:
        assert process.wait(timeout=10) == -signal.SIGTERM
    assert time.monotonic() - began < 1.0


def test_a_stop_that_takes_too_long_is_forced() -> None:
    process = started("late")
    process.send_signal(signal.SIGTERM)
    assert awaited(process) == 0


def test_the_collector_is_spared(monkeypatch: pytest.MonkeyPatch) -> None:
    before, frozen = gc.get_threshold(), []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    gc.set_threshold(700)  # the interpreter's own
    try:
        lifecycle.spare_the_collector()
        assert gc.get_threshold()[0] > 700
        assert frozen == [True]
    finally:
        gc.set_threshold(*before)
