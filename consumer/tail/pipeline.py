"""Commit transactions one after the other: while one is committed, the next is collected."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from consumer import metrics
from consumer.kafka.transaction import Fenced, TransactionalProducer
from consumer.metrics.labels import TransactionOutcome
from consumer.tail.collector import Transaction
from consumer.tail.cursor import Cursor, seconds


class Pipeline:
    """Commits at most one transaction at a time.

    ``done`` is called with the cursor of each committed transaction, ``woken`` whenever one has
    ended, committed or not.
    """

    def __init__(
        self,
        producer: TransactionalProducer,
        done: Callable[[Cursor], None],
    ) -> None:
        self._producer = producer
        self._done = done
        self._commit_task: asyncio.Task[None] | None = None
        self.woken: Callable[[], None] = lambda: None

    @property
    def busy(self) -> bool:
        """True while a transaction is being committed."""
        return self._commit_task is not None and not self._commit_task.done()

    async def submit(self, transaction: Transaction) -> None:
        """Begin to commit ``transaction``, after the one before it.  Raises like ``settle``."""
        await self.settle()
        self._commit_task = asyncio.create_task(self._commit(transaction), name="tailer-commit")
        self._commit_task.add_done_callback(lambda _: self.woken())

    async def settle(self) -> None:
        """Wait for the end of the current commit.

        Raises ``Fenced``, ``OutcomeUnknown`` or ``Fatal``; the producer and the pipeline are then
        dead.
        """
        if self._commit_task is not None:
            await asyncio.shield(self._commit_task)
            self._commit_task = None

    async def close(self) -> None:
        """Cancel the current commit; it may take effect nevertheless."""
        if self._commit_task is not None:
            self._commit_task.cancel()
            await asyncio.wait([self._commit_task])
            if not self._commit_task.cancelled():
                self._commit_task.exception()

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
