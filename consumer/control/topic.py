"""The control topic from the outside: the command line and the gateway send commands to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from consumer.errors import Transient
from consumer.kafka.client import Client
from consumer.kafka.topics import Topic, Topics
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from procedures import messages
from procedures.client import Unavailable
from procedures.messages import Command


class ControlTopic:
    """Sends commands.  Open with ``opened``; it connects when it is first used."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._name = topics.name(Topic.CONTROL)
        self._writer: Writer | None = None
        self._opening = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def opened(cls, client: Client, topics: Topics) -> AsyncIterator[ControlTopic]:
        """Give the topic for the length of the block."""
        topic = cls(client, topics)
        try:
            yield topic
        finally:
            await topic._drop(topic._writer)

    async def send(self, command: Command) -> None:
        """Return after the broker's acknowledgement.

        Raises ``Unavailable`` without one; the command may have arrived all the same.
        """
        record = OutRecord(self._name, 0, messages.key(command), messages.encode(command))
        writer = None
        try:
            async with self._opening:
                if self._writer is None:
                    self._writer = await Writer.open(self._client)
                writer = self._writer
            await writer.write(record)
        except Transient as error:
            await self._drop(writer)
            raise Unavailable(str(error)) from error

    async def _drop(self, writer: Writer | None) -> None:
        if writer is not None:
            if self._writer is writer:
                self._writer = None
            await writer.close()
