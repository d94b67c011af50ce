"""Write single records that need no transaction: their readers tolerate repetition.

A ``Writer`` that raised ``Transient`` may still deliver the record; its owner closes it and opens
another.
"""

from __future__ import annotations

import asyncio
from typing import Any, Self

from consumer.errors import Fatal
from consumer.kafka.client import MAX_RECORD_BYTES, Client, deadline
from consumer.kafka.producers import dispose, start
from consumer.kafka.transaction import OutRecord
from consumer.runtime.closing import Closing


class Writer(Closing):
    """An idempotent producer.  Open with ``open``, always close."""

    def __init__(self, client: Client, producer: Any) -> None:
        self._client = client
        self._producer = producer

    @classmethod
    async def open(cls, client: Client) -> Self:
        """Connect.

        Raises ``Transient`` if Kafka does not answer in time, ``Fatal`` if it refuses.
        """
        producer = client.idempotent_producer()
        await start(client, producer, "opening a producer")
        return cls(client, producer)

    async def write(self, *records: OutRecord) -> int:
        """Write records, wait until all replicas have them, and return the offset of the last.

        Those of one partition keep their order.  Raises ``Transient`` if Kafka is away, ``Fatal``
        if it will never accept one of them.
        """
        for record in records:
            if record.size > MAX_RECORD_BYTES:
                raise Fatal(f"a record of {record.size} bytes is too large for {record.topic}")
        async with deadline(self._client.timeout, "writing"):
            sent = [
                await self._producer.send(
                    record.topic,
                    record.value,
                    key=record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
                for record in records
            ]
            *_, written = await asyncio.gather(*sent)
        return int(written.offset)

    async def close(self) -> None:
        """Release the connections; what is not acknowledged may be lost."""
        await dispose(self._producer)
