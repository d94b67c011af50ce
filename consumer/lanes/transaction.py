"""The transactions of lanes: what those of the worker and of the controller have in common.

Each one locks the rows of its lanes first, and finds too few if a token or a position is not ours:
then another owner has the lane, and nothing of the transaction happens.  Role code decides and
writes in between.  At the end the outbox rows are written and the lanes move on, both under the
same condition.  After COMMIT the outbox rows go to the publisher as well; when the answer to a
COMMIT is lost, the publisher finds them in Postgres.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from uuid import uuid4

from consumer import dead_letters
from consumer.dead_letters import DeadLetter
from consumer.kafka.topics import Topic
from consumer.lanes.errors import LanesLost
from consumer.store import lanes, outbox
from consumer.store.database import Connection, Database
from consumer.store.rows import Headers, Lane, OutRow

TakeRows = Callable[[Sequence[OutRow]], Awaitable[None]]
"""Takes committed outbox rows, and returns when there is room for more."""


class LaneTransaction:
    """One transaction under way: its outbox rows, and where the lane stands after it."""

    def __init__(self, connection: Connection, before: Lane, prefix: str) -> None:
        self.connection = connection
        self.rows: list[OutRow] = []
        self._before = before
        self._position = before
        self._prefix = prefix
        self._stamp = uuid4()

    @property
    def number(self) -> int:
        """The lane's number."""
        return self._before.lane

    @property
    def after(self) -> Lane:
        """The lane's row as this transaction leaves it."""
        return replace(self._position, last_out_seq=self._before.last_out_seq + len(self.rows))

    def move_to(self, position: Lane) -> None:
        """Leave the lane with the fields of ``position``; ``last_out_seq`` follows the rows."""
        self._position = position

    def add(
        self,
        topic: Topic,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
    ) -> None:
        """Add a Kafka record to the outbox; it gets the lane's next ``out_seq``."""
        out_seq = self._before.last_out_seq + len(self.rows) + 1
        self.rows.append(OutRow(out_seq, topic, partition, key, headers, value, self._stamp))

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """Add a dead letter to the outbox."""
        self.add(Topic.DEAD_LETTER, *dead_letters.encode(letter, self._prefix))


class LaneTransactions:
    """The row of a lane that is ours, and every transaction that changes it.

    ``prefix`` is that of the topics.  ``row`` is what Postgres holds as long as no transaction
    fails; after a failure the object is of no more use, and the row must be read again.
    """

    def __init__(self, database: Database, row: Lane, prefix: str, take_rows: TakeRows) -> None:
        self.row = row
        self.database = database
        self.prefix = prefix
        self._take_rows = take_rows

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[LaneTransaction]:
        """Run the block as one transaction; call ``hand_over`` after it.

        Raises ``LaneLost`` if the lane has another owner, and what the database raises.
        """
        async with jointly([self]) as (transaction,):
            yield transaction

    async def hand_over(self, transaction: LaneTransaction) -> None:
        """Give the rows of a committed transaction to the publisher; wait while it has no room.

        Raises ``LaneLost`` when the lane's publisher has ended.
        """
        if transaction.rows:
            await self._take_rows(transaction.rows)

    async def set_crash_count(self, count: int) -> None:
        """Write the crash count alone, fenced by the token.  Raises ``LaneLost``, ``Transient``."""
        async with self.database.transaction() as connection:
            if not await lanes.set_stalls(connection, self.row, count):
                raise LanesLost([self.row.lane])
        self.row = replace(self.row, stalls=count)


@asynccontextmanager
async def jointly(owned: Sequence[LaneTransactions]) -> AsyncIterator[list[LaneTransaction]]:
    """Run the block as one transaction of several lanes of one database: all move, or none does.

    Call ``hand_over`` of each after it.  Raises ``LanesLost`` if some have another owner, and what
    the database raises.
    """
    async with owned[0].database.transaction() as connection:
        before = [one.row for one in owned]
        _require_all(before, await lanes.guard(connection, before))
        transactions = [LaneTransaction(connection, one.row, one.prefix) for one in owned]
        yield transactions
        batches = {one.number: one.rows for one in transactions if one.rows}
        after = [one.after for one in transactions]
        async with connection.together():
            if batches:
                await outbox.append(connection, batches)
            _require_all(before, await lanes.advance(connection, before, after))
    for one, row in zip(owned, after, strict=True):
        one.row = row


def _require_all(rows: Sequence[Lane], found: Collection[int]) -> None:
    if lost := {row.lane for row in rows}.difference(found):
        raise LanesLost(lost)
