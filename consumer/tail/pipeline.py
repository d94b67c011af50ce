"""Transactions one behind the other: while one is committed, the next is collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consumer import metrics
from consumer.kafka.transaction import Fenced, TransactionalProducer
from consumer.metrics import TransactionOutcome
from consumer.tail.collector import Transaction
from consumer.tail.cursor import Cursor, seconds


class Pipeline:
    """At most one transaction under way; ``done`` is called with the cursor of each committed.

    ``woken`` is called whenever a transaction has ended, either way.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        done: Callable[[Cursor], None],
    ) -> None:
        self._producer = producer
        self._done = done
        self._under_way: asyncio.Task[None] | None = None
        self.woken: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """True while a transaction is under way."""
        return self._under_way is not None and not self._under_way.done()

    async def submit(self, transaction: Transaction) -> None:
        """Begin to commit; first wait for the one under way.  Raises what became of that."""
        await self.settle()
        self._under_way = asyncio.create_task(self._commit(transaction), name="tailer-commit")
        self._under_way.add_done_callback(lambda _: self.woken())

    async def settle(self) -> None:
        """Wait for the transaction under way.

        Raises ``Fenced`` or ``OutcomeUnknown``; the pipeline is then as dead as its producer.
        """
        if self._under_way is not None:
            await asyncio.shield(self._under_way)
            self._under_way = None

    async def close(self) -> None:
        """Give up what is under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            await asyncio.wait([self._under_way])
            if not self._under_way.cancelled():
                self._under_way.exception()

    async def _commit(self, transaction: Transaction) -> None:
        outcome = TransactionOutcome.UNKNOWN
        try:
            with metrics.TAIL_COMMIT_SECONDS.time():
                await self._producer.commit(transaction.records)
            outcome = TransactionOutcome.COMMITTED
        except Fenced:
            outcome = TransactionOutcome.FENCED
            raise
        finally:
            metrics.TRANSACTIONS.labels("tailer", outcome).inc()
        metrics.TAIL_BATCH_FRAMES.observe(transaction.frames)
        metrics.CURSOR_SEQ.set(transaction.cursor.seq)
        moment = seconds(transaction.cursor.time)
        if moment is not None:
            metrics.CURSOR_AGE.since(moment)
        metrics.TAIL_LAG.since(transaction.cursor.as_of)
        self._done(transaction.cursor)
