"""Ask for something and follow it to its end: for the gateway and the command line.

Both go the way of every other producer: a command on ``chive.control``, then the operation of
the command's id.  What they need is declared here and provided by the composition root.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol
from uuid import uuid4

from procedures.messages import Command
from procedures.operations import Operation, Status


class Unavailable(Exception):
    """Kafka or Postgres does not answer for now; of a command: it may or may not have arrived."""


class CursorInvalid(ValueError):
    """A cursor that no page gave."""


class CommandSink(Protocol):
    """Where commands go: ``chive.control``."""

    async def send(self, command: Command) -> None:
        """Return after the broker's acknowledgement; raise ``Unavailable``."""


@dataclass(frozen=True, slots=True)
class Query:
    """Which operations: of these statuses, newest first, after ``cursor``.

    Those of ``did``, or the children of ``parent``; without either, those that are no children.
    ``automatic``: also those that the system began itself.
    """

    statuses: frozenset[Status]
    did: str | None = None
    limit: int = 50
    cursor: str | None = None
    parent: str | None = None
    automatic: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """Operations, and the cursor of the next page; None at the end."""

    operations: tuple[Operation, ...]
    cursor: str | None = None


class Operations(Protocol):
    """The operations of the deployment, coalesced ones shown as their primary.

    All methods raise ``Unavailable``.
    """

    async def get(self, identifier: str) -> Operation | None:
        """Return one operation, None if there is none (yet)."""

    async def page(self, query: Query) -> Page:
        """Return a page of operations; raise ``CursorInvalid``."""

    async def changed(self, identifier: str, version: int) -> Operation:
        """Return the operation as soon as its version is above ``version``.

        At once if it is already; with 0, as soon as the operation exists.  Has no deadline of its
        own: the caller cancels it.
        """


def new_id() -> str:
    """Return a random id for a new operation, which cannot be guessed."""
    return str(uuid4())


async def follow(operations: Operations, identifier: str) -> AsyncGenerator[Operation, None]:
    """Yield an operation each time that it has changed, up to its end.  Raises ``Unavailable``."""
    version = 0
    while True:
        operation = await operations.changed(identifier, version)
        yield operation
        if operation.ended:
            return
        version = operation.version


async def outcome(operations: Operations, identifier: str, deadline: float) -> Operation | None:
    """Return an operation at its end, or as it is at ``deadline`` (the loop's time).

    None if it does not exist by then.  Raises ``Unavailable``.
    """
    newest: Operation | None = None
    with suppress(TimeoutError):
        async with asyncio.timeout_at(deadline), aclosing(follow(operations, identifier)) as steps:
            async for operation in steps:
                newest = operation
    return newest
