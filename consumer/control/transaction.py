"""The controller's transactions: commands, letters, operations to publish and position as one."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from consumer import dead_letters, metrics
from consumer.control.commands import carry_out
from consumer.dead_letters import DeadLetter, Headers, InputRecord, InputTopic
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topic, Topics
from consumer.lanes.errors import LaneLost
from consumer.scope import History, Scope
from consumer.store import lanes, outbox
from consumer.store.database import Connection, Database
from consumer.store.operations import read, sweeps
from consumer.store.rows import Lane, OutRow
from procedures import messages
from procedures import operations as procedure
from procedures.messages import Refusal
from procedures.operations import answered_through

_PUBLISHED = 500  # operations in one transaction

HandOver = Callable[[Sequence[OutRow]], Awaitable[None]]


class Ledger:
    """The controller's position, and every transaction that moves it."""

    def __init__(
        self, database: Database, lane: Lane, topics: Topics, scope: Scope, hand_over: HandOver
    ) -> None:
        self.lane = lane
        self._database = database
        self._topics = topics
        self._scope = scope
        self._hand_over = hand_over

    async def post(self, records: Sequence[Record]) -> bool:
        """Carry out the commands in ``records``, and publish operations that have changed.

        Returns whether anything was done.  Raises ``LaneLost``, ``Transient``, ``Fatal``.
        """
        out = _Out(self.lane)
        async with self._database.transaction() as connection:
            await self._guard(connection)
            for record in records:
                refusal = await self._one(connection, record)
                if refusal is not None:
                    self._refuse(out, record, refusal)
            await self._publish(connection, out)
            offset = records[-1].offset + 1 if records else self.lane.control_offset
            new = replace(self.lane, control_offset=offset)
            await self._commit(connection, new, out)
        await self._posted(out)
        return bool(records or out.rows)

    async def sweep(self, forget_after: float) -> None:
        """Put right what nobody else notices."""
        out = _Out(self.lane)
        async with self._database.transaction() as connection:
            await self._guard(connection)
            counts = {
                metrics.Sweep.LOST: await sweeps.requeue_lost(connection),
                metrics.Sweep.PASSED: await sweeps.requeue_passed(connection),
            }
            if self._scope.history is History.FULL:
                counts[metrics.Sweep.REPAIRED] = await sweeps.repair(connection)
            forgotten = await sweeps.forget(connection, forget_after)
            counts[metrics.Sweep.FORGOTTEN] = len(forgotten)
            for identifier in forgotten:
                out.add(Topic.OPERATIONS, 0, identifier.encode(), None)
            await self._commit(connection, self.lane, out)
        for kind, count in counts.items():
            metrics.SWEPT.labels(kind).inc(count)
        await self._posted(out)

    async def skip_to(self, offset: int) -> None:
        """Go on at ``offset``: what was before it is gone from the topic."""
        out = _Out(self.lane)
        async with self._database.transaction() as connection:
            await self._guard(connection)
            await self._commit(connection, replace(self.lane, control_offset=offset), out)
        await self._posted(out)

    async def _one(self, connection: Connection, record: Record) -> Refusal | None:
        command = messages.decode(record.value, record.offset, record.timestamp)
        if isinstance(command, Refusal):
            return command
        return await carry_out(connection, command, self._topics, self._scope, time.time())

    def _refuse(self, out: _Out, record: Record, refusal: Refusal) -> None:
        metrics.COMMANDS_REFUSED.labels(refusal.reason).inc()
        letter = dead_letters.encode(dead_letter(record, refusal), self._topics.prefix)
        out.add(Topic.DEAD_LETTER, *letter)

    async def _publish(self, connection: Connection, out: _Out) -> None:
        changed = await read.take_unpublished(connection, _PUBLISHED)
        led = [one.same_as for one in changed if one.same_as and not one.ended]
        leaders = await read.read_all(connection, led) if led else {}
        for one in changed:
            leader = leaders.get(one.same_as or "")
            seen = one if leader is None else answered_through(one, leader)
            out.add(Topic.OPERATIONS, 0, one.id.encode(), procedure.encode(seen))

    async def _guard(self, connection: Connection) -> None:
        if not await lanes.guard(connection, self.lane):
            raise LaneLost(f"lane {self.lane.lane} has another owner, or has moved on")

    async def _commit(self, connection: Connection, new: Lane, out: _Out) -> None:
        if out.rows:
            await outbox.append(connection, new.lane, out.rows)
        out.lane = replace(new, last_out_seq=new.last_out_seq + len(out.rows))
        if not await lanes.advance(connection, self.lane, out.lane):
            raise LaneLost(f"lane {self.lane.lane} has another owner, or has moved on")

    async def _posted(self, out: _Out) -> None:
        self.lane = out.lane
        if out.rows:
            await self._hand_over(out.rows)


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


class _Out:
    """Rows of the outbox, numbered on from the lane's last; the lane as it is after them."""

    def __init__(self, lane: Lane) -> None:
        self.rows: list[OutRow] = []
        self.lane = lane
        self._next = lane.last_out_seq + 1

    def add(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
    ) -> None:
        self.rows.append(OutRow(self._next, topic, partition, key, headers, value))
        self._next += 1
