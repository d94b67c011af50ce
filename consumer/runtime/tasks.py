"""Waiting for the first of several things, for an event, for a stop; ending tasks.

Times are in seconds.  Every wait here ends its own helpers before it returns, and waits for
their end for at most ``CANCEL_SECONDS``: a task that ignores its cancellation blocks no caller.
Timeouts are anyio's scopes, which do not lose a result that comes together with the timeout.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, NoReturn, TypeVar

import anyio

CANCEL_SECONDS = 3.0

T = TypeVar("T")
F = TypeVar("F", bound=asyncio.Future[Any])


class Stopped(Exception):
    """The process was told to stop before the work was done."""


async def first_of(*work: Awaitable[T], cancel_seconds: float = CANCEL_SECONDS) -> T:
    """Run all of ``work``, and return or raise what the first one to end gave.

    The others are cancelled and waited for, ``cancel_seconds`` at most; what they give is
    dropped.  If several end at the same moment, the one named first decides.  A task among
    ``work`` is cancelled too: wrap it in ``joined`` if it is to go on.
    """
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel(tasks, cancel_seconds)
    return next(task for task in tasks if task in ended).result()


async def joined(task: asyncio.Future[T]) -> T:
    """Wait for ``task``; return or raise what it gave.  It goes on if the wait is cancelled."""
    await asyncio.wait([task])
    return task.result()


async def any_ended(
    tasks: Iterable[F], stop: asyncio.Event, seconds: float | None = None
) -> set[F]:
    """Wait until one of ``tasks`` has ended or told to stop, for at most ``seconds``.

    Returns those that have ended; the others go on.  What a task raised is raised by its
    ``result()``, not here.
    """
    tasks, stopping = set(tasks), asyncio.ensure_future(stop.wait())
    work: set[asyncio.Future[Any]] = {stopping, *tasks}
    try:
        await asyncio.wait(work, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await cancel([stopping])
    return {task for task in tasks if task.done()}


async def until(
    event: asyncio.Event,
    stop: asyncio.Event,
    seconds: float,
    watched: Iterable[asyncio.Future[Any]] = (),
) -> bool:
    """Wait for ``event``, until told to stop, for at most ``seconds``; tell whether it is set.

    The end of one of the ``watched`` tasks ends the wait too.  Raises what that task raised.
    """
    with anyio.move_on_after(seconds):
        await first_of(*map(joined, watched), event.wait(), stop.wait())
    return event.is_set()


async def wait_for_stop(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep for ``seconds`` or until told to stop; tell whether told to stop."""
    with anyio.move_on_after(seconds):
        await stop.wait()
    return stop.is_set()


async def unless_stopped(stop: asyncio.Event, work: Awaitable[T]) -> T:
    """Return or raise what ``work`` gives.  Raises ``Stopped`` when told to stop before."""
    return await first_of(work, _stopped(stop))


async def _stopped(stop: asyncio.Event) -> NoReturn:
    await stop.wait()
    raise Stopped


def is_cancelled() -> bool:
    """Tell whether the current task was cancelled, whatever a driver has made of that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def cancel(tasks: Iterable[asyncio.Future[Any]], seconds: float = CANCEL_SECONDS) -> None:
    """Cancel the tasks that still run, and wait for their end, for at most ``seconds``.

    What they raise is dropped.
    """
    tasks = list(tasks)
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    try:
        if running:
            # Shielded: an expired timeout around us must not keep the tasks from ending.
            with anyio.CancelScope(shield=True):
                await asyncio.wait(running, timeout=seconds)
    finally:
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()  # seen, so that asyncio does not log it as lost
