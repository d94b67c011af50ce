"""Waiting for the first of several things, with everything else ended."""

from __future__ import annotations

import asyncio
import gc
import re
import time
from pathlib import Path

import anyio
import pytest

from consumer.errors import Fatal, Transient
from consumer.runtime.tasks import (
    Stopped,
    any_ended,
    cancel,
    first_of,
    joined,
    unless_stopped,
    until,
    wait_for_stop,
)


class Slow:
    """Work that takes ``seconds``, and notes what became of it."""

    def __init__(self, seconds: float = 60.0, *, cleanup: float = 0.0) -> None:
        self._seconds = seconds
        self._cleanup = cleanup
        self.cancelled = False
        self.cleaned_up = False

    async def run(self) -> str:
        try:
            await asyncio.sleep(self._seconds)
        except asyncio.CancelledError:
            self.cancelled = True
            await asyncio.sleep(self._cleanup)
            self.cleaned_up = True
            raise
        return "slow"


async def failing(error: Exception) -> str:
    raise error


async def test_the_first_result_is_returned_and_the_rest_cancelled_and_awaited() -> None:
    slow = Slow(cleanup=0.01)
    assert await first_of(slow.run(), asyncio.sleep(0, "fast")) == "fast"
    assert slow.cancelled
    assert slow.cleaned_up


async def test_the_first_error_is_raised() -> None:
    slow = Slow()
    with pytest.raises(Transient, match="gone"):
        await first_of(slow.run(), failing(Transient("gone")))
    assert slow.cancelled


async def test_of_several_at_once_the_one_named_first_decides() -> None:
    assert await first_of(asyncio.sleep(0, "a"), asyncio.sleep(0, "b")) == "a"
    assert await first_of(asyncio.sleep(0, "a"), failing(Fatal("x"))) == "a"
    with pytest.raises(Fatal):
        await first_of(failing(Fatal("x")), asyncio.sleep(0, "a"))


async def test_an_error_during_the_cancellation_is_dropped() -> None:
    lost: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: lost.append(context))

    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        finally:
            raise Fatal("while cleaning up")

    try:
        assert await first_of(asyncio.sleep(0, "done"), stubborn()) == "done"
        gc.collect()
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
    assert not lost


async def test_a_task_that_ignores_its_cancellation_blocks_no_caller() -> None:
    free = asyncio.Event()

    async def deaf() -> str:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue
        return "deaf"

    began = time.monotonic()
    task = asyncio.ensure_future(deaf())
    assert await first_of(asyncio.sleep(0, "done"), task, cancel_seconds=0.05) == "done"
    assert 0.04 < time.monotonic() - began < 2
    assert not task.done()
    free.set()
    await task


async def test_cancelling_the_wait_cancels_the_work() -> None:
    slow = Slow(cleanup=0.01)
    waiting = asyncio.ensure_future(first_of(slow.run()))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slow.cleaned_up


async def test_an_expired_timeout_lets_the_rest_end() -> None:
    slow = Slow(cleanup=0.02)
    with anyio.move_on_after(0.01) as scope:
        await first_of(slow.run())
    assert scope.cancelled_caught
    assert slow.cleaned_up


async def test_a_joined_task_goes_on() -> None:
    slow = Slow(0.02)
    task = asyncio.ensure_future(slow.run())
    assert await first_of(joined(task), asyncio.sleep(0, "fast")) == "fast"
    assert not slow.cancelled
    assert await joined(task) == "slow"


async def test_until_tells_whether_the_event_came() -> None:
    event, stop = asyncio.Event(), asyncio.Event()
    assert not await until(event, stop, 0.01)
    asyncio.get_running_loop().call_soon(event.set)
    assert await until(event, stop, 60)
    event.clear()
    asyncio.get_running_loop().call_soon(stop.set)
    assert not await until(event, stop, 60)


async def test_until_ends_with_what_it_watches() -> None:
    event, stop = asyncio.Event(), asyncio.Event()
    with pytest.raises(Fatal, match="broken"):
        await until(event, stop, 60, [asyncio.ensure_future(failing(Fatal("broken")))])
    slow = Slow()
    watched = asyncio.ensure_future(slow.run())
    assert not await until(event, stop, 0.01, [watched])
    assert not slow.cancelled
    await cancel([watched])
    assert slow.cancelled


async def test_a_sleep_ends_when_told_to_stop() -> None:
    stop = asyncio.Event()
    assert not await wait_for_stop(stop, 0.01)
    asyncio.get_running_loop().call_soon(stop.set)
    assert await wait_for_stop(stop, 60)


async def test_unless_stopped_gives_the_result_or_stops_the_work() -> None:
    stop = asyncio.Event()
    assert await unless_stopped(stop, asyncio.sleep(0, "done")) == "done"
    asyncio.get_running_loop().call_soon(stop.set)
    with pytest.raises(Stopped):
        await unless_stopped(stop, asyncio.sleep(60))


async def test_unless_stopped_passes_errors_on() -> None:
    with pytest.raises(Transient, match="away"):
        await unless_stopped(asyncio.Event(), failing(Transient("away")))


async def test_what_has_ended_is_returned_and_the_rest_goes_on() -> None:
    stop, slow = asyncio.Event(), asyncio.create_task(Slow().run())
    broken = asyncio.create_task(failing(Transient("gone")))
    assert await any_ended([slow, broken], stop) == {broken}
    assert not slow.done()
    with pytest.raises(Transient, match="gone"):
        broken.result()
    assert await any_ended([slow], stop, 0.01) == set()
    stop.set()
    assert await any_ended([slow], stop) == set()
    assert not slow.done()
    await cancel([slow])
    assert await any_ended([slow], asyncio.Event()) == {slow}


async def test_nothing_to_wait_for_waits_for_the_stop() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stop.set)
    assert await any_ended([], stop) == set()


def test_nobody_else_waits_for_the_first_of_several_tasks_by_hand() -> None:
    root = Path(__file__).parents[3]
    by_hand = {
        str(file.relative_to(root))
        for package in ("consumer", "procedures")
        for file in (root / package).rglob("*.py")
        if re.search(r"\b(FIRST_COMPLETED|FIRST_EXCEPTION|as_completed)\b", file.read_text("utf-8"))
    }
    assert by_hand == {"consumer/runtime/tasks.py"}
