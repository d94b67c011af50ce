"""Start an aiokafka producer, and dispose of one, whatever state it is in.

``stop()`` may wait for a sender task that waits for a Kafka which is gone, and a failed
transaction leaves futures with unread exceptions, which asyncio then logs.  aiokafka has no
public way around either: this module alone uses the private parts of aiokafka 0.14.
"""
# ruff: noqa: SLF001 - see above

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.errors import ProducerClosed

from consumer.errors import Transient
from consumer.kafka.client import Client, closed, deadline


async def start(client: Client, producer: Any, doing: str) -> None:
    """Connect ``producer``, one of ``client``; if that fails, dispose of it.

    ``doing`` names the attempt in errors.  Raises ``Transient`` if Kafka does not answer in time,
    ``Fatal`` if it refuses.
    """
    try:
        async with deadline(client.timeout, doing):
            await producer.start()
    except BaseException as error:
        await dispose(producer)
        if isinstance(error, Transient):
            raise await client.explained(error) from error
        raise


async def dispose(producer: Any) -> None:
    """Release everything that ``producer`` holds; its open transaction stays open."""
    sender = producer._sender.sender_task
    while sender is not None and not sender.done():
        sender.cancel()  # ends only its current wait; there may be several
        await asyncio.wait([sender], timeout=0.1)
    _silence(producer)
    # stop() would wait for what the sender was about to send.
    producer._message_accumulator.fail_all(ProducerClosed())
    if not await closed(producer.stop):
        await closed(producer.client.close)


def retrieve(future: asyncio.Future[Any]) -> None:
    """Read the exception of a future that is done, so that asyncio does not log it."""
    if not future.cancelled():
        future.exception()


def _silence(producer: Any) -> None:
    accumulator = producer._message_accumulator
    queued = [batch for batches in accumulator._batches.values() for batch in batches]
    waiters = [producer._txn_manager.wait_for_transaction_end()]
    for batch in (*queued, *accumulator._pending_batches):
        waiters += [batch.future, batch._drain_waiter]
    for waiter in waiters:
        if waiter is not None:
            waiter.add_done_callback(retrieve)
