"""How a process lives and ends: signals, supervised roots, restarts when a service is unreachable.

- The first SIGTERM or SIGINT sets the stop event: roles finish what they hold and return.
  A role that has not returned after ``DRAIN_SECONDS`` is cancelled (every durable step is a
  transaction, so nothing is lost), and after ``STOP_SECONDS`` the process ends in any case.
  The exit code is 0.  A second signal kills the process at once.
- A root that raises ``Transient`` starts again after a pause, without limit.  A root that raises
  anything else, or returns without being told to stop, has died: the others are stopped, and
  ``RootDied`` says which one died and why.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import structlog
import uvloop

from consumer import metrics
from consumer.errors import Fatal, Transient
from consumer.runtime.logs import Outage
from consumer.runtime.tasks import Stopped, any_ended, cancel, wait_for_stop

DRAIN_SECONDS = 12.0
STOP_SECONDS = 28.0
_ALLOCATIONS = 10_000  # containers between two runs of the garbage collector
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEALTHY_SECONDS = 30.0  # a root that ran this long did not fail at its start

Root = Callable[[asyncio.Event], Awaitable[None]]

_log = structlog.get_logger()


class RootDied(Fatal):
    """A root of this process failed, or ended without being told to."""

    def __init__(self, root: str, reason: str) -> None:
        super().__init__(f"{root} died: {reason}")
        self.root = root
        self.reason = reason


class Backoff:
    """Pauses in seconds that double from ``first`` to ``longest``, each with jitter."""

    def __init__(self, first: float = 0.25, longest: float = 15.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._next = self._first

    def pause(self) -> float:
        """Return the next pause: between half of it and the whole."""
        pause, self._next = self._next, min(self._next * 2, self._longest)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # jitter


def run(main: Root) -> None:
    """Run ``main`` in a fresh event loop with signals handled; ``Stopped`` is a normal end."""

    async def handled() -> None:
        stop = asyncio.Event()
        with _signals(stop), suppress(Stopped):
            await main(stop)

    spare_the_collector()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(handled())


def spare_the_collector() -> None:
    """Let the garbage collector run less often, and ignore what exists at the start.

    Decoding makes thousands of containers and no cycles: with the interpreter's own settings, a
    large record full of arrays takes three times as long.
    """
    gc.freeze()
    gc.set_threshold(_ALLOCATIONS)


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()

    def first(number: signal.Signals) -> None:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)
            # The kernel handles the second one, which works even when the loop hangs.
            signal.signal(each, signal.SIG_DFL)
        stop.set()
        _end_in_any_case(0)
        _log.info("process_stopping", signal=number.name)

    for each in _SIGNALS:
        loop.add_signal_handler(each, first, each)
    try:
        yield
    finally:
        for each in _SIGNALS:
            loop.remove_signal_handler(each)


def _end_in_any_case(code: int) -> None:
    """End the process when the time to stop is over, whatever still hangs."""

    def end() -> None:
        _log.error("stop_forced", seconds=STOP_SECONDS)
        os._exit(code)

    timer = threading.Timer(STOP_SECONDS, end)
    timer.daemon = True
    timer.start()


async def persistently(name: str, attempt: Root, stop: asyncio.Event) -> None:
    """Run ``attempt`` until it returns or is told to stop, again after every ``Transient``."""
    outage, backoff = Outage(_log, "services"), Backoff()

    def healthy() -> None:
        outage.over(root=name)
        backoff.reset()

    while not stop.is_set():
        timer = asyncio.get_running_loop().call_later(_HEALTHY_SECONDS, healthy)
        try:
            await attempt(stop)
        except Transient as away:
            outage.again(away, root=name)
            metrics.ROOT_RESTARTS.labels(name).inc()
        else:
            return
        finally:
            timer.cancel()
        await wait_for_stop(stop, backoff.pause())


async def _root(name: str, root: Root, stop: asyncio.Event) -> None:
    metrics.ROOT_UP.labels(name).set(1)
    try:
        await persistently(name, root, stop)
    except Fatal as fatal:
        raise RootDied(name, str(fatal)) from fatal
    except Exception as error:
        _log.exception("root_failed", root=name)
        raise RootDied(name, f"{type(error).__name__}: {error}") from error
    finally:
        metrics.ROOT_UP.labels(name).set(0)
    if not stop.is_set():
        raise RootDied(name, "it ended without being told to stop")


async def supervise(
    roots: Mapping[str, Root], stop: asyncio.Event, drain: float = DRAIN_SECONDS
) -> None:
    """Run all roots until told to stop, then let them drain.  Raises ``RootDied``.

    ``stop`` is set when this returns or raises.
    """
    tasks = {asyncio.create_task(_root(name, r, stop), name=name) for name, r in roots.items()}
    try:
        await any_ended(tasks, stop)
        died = _first_failure(tasks)
        if died is not None:
            _log.error("root_died", root=died.root, reason=died.reason)
            _end_in_any_case(1)
        stop.set()
        _, late = await asyncio.wait(tasks, timeout=drain)
        if late:
            _log.warning("drain_cut", roots=sorted(task.get_name() for task in late))
    finally:
        stop.set()
        await cancel(tasks)
    if died := died or _first_failure(tasks):
        raise died


def _first_failure(tasks: set[asyncio.Task[None]]) -> RootDied | None:
    for task in tasks:
        if task.done() and not task.cancelled() and isinstance(task.exception(), RootDied):
            return task.exception()  # type: ignore[return-value]  # checked on the line above
    return None
