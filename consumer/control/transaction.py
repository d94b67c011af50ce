"""The controller's transactions: commands, dead letters, operations to publish, and the position.

``consumer/lanes/transaction.py`` has what every transaction of a lane does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from consumer import metrics
from consumer.control import bulks
from consumer.control.commands import carry_out
from consumer.dead_letters import DeadLetter, InputRecord, InputTopic
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic, Topics
from consumer.lanes.transaction import LaneTransaction, LaneTransactions
from consumer.metrics.labels import Sweep
from consumer.scope import History, Scope
from consumer.store.database import Connection
from consumer.store.operations import read, sweeps, write
from procedures import messages
from procedures import operations as procedure
from procedures.messages import Refusal
from procedures.operations import answered_through
from procedures.retries import RetryPolicy

_STEP_EVERY = 0.25  # seconds between two steps of open parents
_PUBLISHED = 500  # operations in one transaction


class CommandTransactions:
    """Every transaction of the controller on its lane."""

    def __init__(
        self, lane: LaneTransactions, topics: Topics, scope: Scope, retries: RetryPolicy
    ) -> None:
        self._lane = lane
        self._topics = topics
        self._scope = scope
        self._retries = retries
        self._stepped = 0.0
        self._repaired = ""  # the last DID that was looked at

    async def commit(self, records: Sequence[Record]) -> bool:
        """Carry out the commands in ``records``, and publish operations that have changed.

        Between two of them, at most four times a second, open parents are brought forward.

        Returns whether more operations may have changed than are published at once.
        Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        async with self._lane.begin() as transaction:
            for record, refusal in await self._carry_out(transaction.connection, records):
                metrics.COMMANDS_REFUSED.labels(refusal.reason).inc()
                transaction.add_dead_letter(dead_letter(record, refusal))
            await self._step(transaction.connection)
            published = await _publish(transaction)
            if records:
                offset = records[-1].offset + 1
                transaction.move_to(replace(self._lane.row, control_offset=offset))
        await self._lane.hand_over(transaction)
        return published == _PUBLISHED

    async def has_work(self) -> bool:
        """Tell whether operations have changed, or parents are open.  Raises ``Transient``."""
        async with self._lane.database.transaction() as connection:
            return await read.needs_controller(connection)

    async def _step(self, connection: Connection) -> None:
        if time.monotonic() - self._stepped >= _STEP_EVERY:
            await bulks.step(connection, self._topics, time.time(), self._scope.shard)
            self._stepped = time.monotonic()

    async def sweep(self, forget_after: float) -> None:
        """Queue again what was lost or passed, and forget operations that ended long ago.

        ``forget_after`` is in seconds.  Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        async with self._lane.begin() as transaction:
            connection = transaction.connection
            counts = {
                Sweep.LOST: await sweeps.requeue_lost(connection),
                Sweep.PASSED: await sweeps.requeue_passed(connection),
            }
            if self._scope.history is History.FULL:
                counts[Sweep.REPAIRED], self._repaired = await sweeps.repair(
                    connection, self._retries.renewal, self._repaired
                )
            forgotten = await sweeps.forget(connection, forget_after)
            counts[Sweep.FORGOTTEN] = len(forgotten)
            for identifier in forgotten:
                transaction.add(Topic.OPERATIONS, 0, identifier.encode(), None)
        for kind, count in counts.items():
            metrics.SWEPT.labels(kind).inc(count)
        await self._lane.hand_over(transaction)

    async def skip_to(self, offset: int) -> None:
        """Go on at ``offset``: the topic no longer has what was before it."""
        async with self._lane.begin() as transaction:
            transaction.move_to(replace(self._lane.row, control_offset=offset))

    async def _carry_out(
        self, connection: Connection, records: Sequence[Record]
    ) -> list[tuple[Record, Refusal]]:
        """Carry out the commands in ``records``; return those that were refused."""
        read = [messages.decode(one.value, one.offset, one.timestamp) for one in records]
        commands = [one for one in read if not isinstance(one, Refusal)]
        refusals = iter(
            await carry_out(
                connection, commands, self._topics, self._scope, self._retries, time.time()
            )
        )
        outcomes = [one if isinstance(one, Refusal) else next(refusals) for one in read]
        return [(one, why) for one, why in zip(records, outcomes, strict=True) if why is not None]


async def _publish(transaction: LaneTransaction) -> int:
    """Add operations that have changed to the outbox; return how many."""
    changed = await write.take_unpublished(transaction.connection, _PUBLISHED)
    followed = [one.same_as for one in changed if one.same_as and not one.ended]
    primaries = await read.read_all(transaction.connection, followed) if followed else {}
    for one in changed:
        primary = primaries.get(one.same_as or "")
        seen = one if primary is None else answered_through(one, primary)
        transaction.add(Topic.OPERATIONS, 0, one.id.encode(), procedure.encode(seen))
    return len(changed)


def dead_letter(record: Record, refusal: Refusal) -> DeadLetter:
    """Return the dead letter for a message that is no command."""
    return DeadLetter(
        reason=refusal.reason,
        detail=refusal.detail,
        source=InputRecord(InputTopic.CONTROL, record.partition, record.offset),
        key=record.key,
        value=record.value,
        own_headers=record.headers,
    )
