"""The worker's decisions: the batches of the lanes of a process, those that come together in one.

A transaction costs far more than a commit, and at the rates of a normal day each lane has a few
commits at a time.  So the batches of lanes that are ready at about the same moment are decided in
one PostgreSQL transaction: what they read and write is read and written at once, what they decide
is decided lane by lane.  While one transaction is under way, the next batches gather.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import anyio

from consumer.lanes.errors import LanesLost
from consumer.lanes.transaction import LaneTransaction, jointly
from consumer.metrics.labels import BatchStep
from consumer.state.effects import Rejection
from consumer.state.inputs import Quarantined
from consumer.store import found, progress
from consumer.store.database import Connection
from consumer.worker.loading import load
from consumer.worker.plan import Planned
from consumer.worker.report import Stopwatch
from consumer.worker.share import BatchResult, Share
from consumer.worker.writing import (
    add_events,
    add_report,
    dead_letters,
    write_plans,
    write_states,
)

_GATHER = 0.01  # seconds that a batch waits for those of other lanes that are being planned


async def decide(shares: Sequence[Share]) -> list[BatchResult]:
    """Decide and write what is in the plans of several lanes, all or nothing.

    The lanes have one database, and policies that differ by the lane alone.
    Raises ``LanesLost``, ``Transient``, ``Fatal``.
    """
    watch = Stopwatch()
    refused: list[list[tuple[Planned, Rejection]]] = []
    async with jointly([share.lane for share in shares]) as transactions:
        connection = transactions[0].connection
        states = await load(connection, shares)
        watch.lap(BatchStep.LOAD)
        for share, state in zip(shares, states, strict=True):
            refused.append([(p, why) for p in share.plan.inputs if (why := state.apply(p.input))])
            share.plan.look_up_wanted(state.lookups)
        watch.lap(BatchStep.APPLY)
        await write_plans(connection, [share.plan for share in shares])
        await write_states(connection, states)
        for share, state, transaction, rejected in zip(
            shares, states, transactions, refused, strict=True
        ):
            add_events(transaction, state, share.form)
            for letter in dead_letters(share.plan, rejected):
                transaction.add_dead_letter(letter)
            await _remember_strangers(connection, share, rejected)
            for did, incarnation in state.forgotten.items():
                share.plan.cache.forget(did, incarnation)
            transaction.move_to(share.plan.position)
        await _say(connection, shares, transactions)
    watch.lap(BatchStep.WRITE)
    return [
        BatchResult(state, [rejection for _, rejection in rejected], transaction)
        for state, rejected, transaction in zip(states, refused, transactions, strict=True)
    ]


async def _say(
    connection: Connection, shares: Sequence[Share], transactions: Sequence[LaneTransaction]
) -> None:
    """Add what lanes say of themselves, behind all that it vouches for."""
    reports = [share.plan.report for share in shares if share.plan.report is not None]
    if not reports:
        return
    for share, transaction in zip(shares, transactions, strict=True):
        if share.plan.report is not None:
            add_report(transaction, share.plan.report, share.form)
    await progress.write(connection, reports)


async def _remember_strangers(
    connection: Connection, share: Share, refused: Sequence[tuple[Planned, Rejection]]
) -> None:
    """Let the repositories be fetched of which only a quarantined frame has come."""
    strangers = [
        (planned.input.did, share.policy.lane)
        for planned, _ in refused
        if isinstance(planned.input, Quarantined) and planned.input.frame
    ]
    if strangers and share.policy.searches:
        await found.note(connection, strangers, found.QUARANTINE, "", None)


@dataclass(frozen=True, slots=True)
class _Waiting:
    share: Share
    result: asyncio.Future[BatchResult]


class Together:
    """Decides what the lanes of a process bring; for one event loop.

    ``inputs`` and ``size``, in bytes, bound a transaction; one batch may be larger.
    """

    def __init__(self, inputs: int, size: int) -> None:
        self._inputs = inputs
        self._size = size
        self._planning = 0
        self._waiting: list[_Waiting] = []
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Let transactions wait a moment for what is planned during the block."""
        self._planning += 1
        try:
            yield
        finally:
            self._planning -= 1
            self._changed.set()

    async def decide(self, share: Share) -> BatchResult:
        """Decide ``share`` in one transaction with what others bring.

        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        result: asyncio.Future[BatchResult] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(share, result))
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="decide-together")
        return await result

    async def _run(self) -> None:
        """Decide until nothing waits."""
        while self._waiting:
            with anyio.move_on_after(_GATHER):
                while self._planning:
                    self._changed.clear()
                    await self._changed.wait()
            await self._decide(self._take())

    def _take(self) -> list[_Waiting]:
        """Take what one transaction has room for."""
        waiting = [one for one in self._waiting if not one.result.done()]  # not cancelled
        inputs = size = 0
        for count, one in enumerate(waiting):
            inputs += one.share.plan.size
            size += one.share.size
            if count and (inputs > self._inputs or size > self._size):
                break
        else:
            count = len(waiting)
        self._waiting = waiting[count:]
        return waiting[:count]

    async def _decide(self, taken: Sequence[_Waiting]) -> None:
        if not taken:
            return
        task = asyncio.create_task(decide([one.share for one in taken]), name="decide")
        await asyncio.wait([task])
        error = task.exception()
        if isinstance(error, LanesLost):
            lost = [one for one in taken if one.share.policy.lane in error.numbers]
            self._waiting = [one for one in taken if one not in lost] + self._waiting
            _raise(lost, error)
        elif error is not None:
            _raise(taken, error)
        else:
            for one, result in zip(taken, task.result(), strict=True):
                if not one.result.done():
                    one.result.set_result(result)


def _raise(waiting: Sequence[_Waiting], error: BaseException) -> None:
    for one in waiting:
        if not one.result.done():
            one.result.set_exception(error)
