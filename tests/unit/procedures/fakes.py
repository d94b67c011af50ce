"""A broker, a table of operations and a memory of requests, for the gateway and the client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from procedures.client import CursorInvalid, Page, Query, Unavailable
from procedures.comparison import Indexed
from procedures.dead_letters import Letter
from procedures.firehose_status import FirehoseState
from procedures.messages import Command
from procedures.operations import Operation
from procedures.register_pds import HostState
from procedures.replays import PER_TOKEN, Claim, Replays, TokenRequest


class Broker:
    """A command sink: keeps what is sent, fails, or hangs."""

    def __init__(self) -> None:
        self.sent: list[Command] = []
        self.error: Exception | None = None
        self.hangs = False
        self.on_send: Callable[[Command], None] = lambda _command: None

    async def send(self, command: Command) -> None:
        if self.error is not None:
            raise self.error
        if self.hangs:
            await asyncio.Event().wait()
        self.sent.append(command)
        self.on_send(command)


class Table:
    """The operations; ``put`` wakes those that wait for a change."""

    def __init__(self) -> None:
        self.rows: dict[str, Operation] = {}
        self.error: Exception | None = None
        self.queries: list[Query] = []
        self.awaited = asyncio.Event()
        self._changed = asyncio.Event()

    def put(self, operation: Operation) -> None:
        self.rows[operation.id] = operation
        self._changed.set()
        self._changed = asyncio.Event()

    async def get(self, identifier: str) -> Operation | None:
        if self.error is not None:
            raise self.error
        return self.rows.get(identifier)

    async def page(self, query: Query) -> Page:
        if self.error is not None:
            raise self.error
        if query.cursor == "wrong":
            raise CursorInvalid
        self.queries.append(query)
        found = [o for o in reversed(self.rows.values()) if o.status in query.statuses]
        found = [o for o in found if query.automatic or not o.automatic]
        more = str(query.limit) if len(found) > query.limit else None
        return Page(tuple(found[: query.limit]), more)

    async def changed(self, identifier: str, version: int) -> Operation:
        while True:
            if self.error is not None:
                raise self.error
            operation = self.rows.get(identifier)
            if operation is not None and operation.version > version:
                return operation
            self.awaited.set()
            await self._changed.wait()


class Hosts:
    """The sources of discovery; a host that is not named here is new."""

    def __init__(self) -> None:
        self.states: dict[str, HostState] = {}
        self.error: Exception | None = None

    async def state_of(self, host: str) -> HostState:
        if self.error is not None:
            raise self.error
        return self.states.get(host, HostState.NEW)


class Records:
    """The index: CIDs by URI."""

    def __init__(self) -> None:
        self.cids: dict[str, str] = {}
        self.pds: str | None = None
        self.error: Exception | None = None

    async def indexed(self, uri: str) -> Indexed:
        if self.error is not None:
            raise self.error
        return Indexed(self.cids.get(uri), self.pds)


class Tailer:
    """How far the firehose was read."""

    def __init__(self) -> None:
        self.now = FirehoseState()
        self.error: Exception | None = None

    async def state(self, now: float) -> FirehoseState:
        assert now > 0
        if self.error is not None:
            raise self.error
        return self.now


class DeadLetters:
    """The dead letters, newest first."""

    def __init__(self) -> None:
        self.listed: list[Letter] = []
        self.error: Exception | None = None

    async def newest(self) -> list[Letter]:
        if self.error is not None:
            raise self.error
        return self.listed


class Memory(Replays):
    """Requests and answers; ``lost`` owners hold nothing."""

    def __init__(self) -> None:
        self.rows: dict[TokenRequest, tuple[str, bytes | None]] = {}
        self.lost: set[str] = set()
        self.away = False
        self.refusal: Claim | None = None

    def _look(self) -> None:
        if self.away:
            raise Unavailable("password=secret")

    async def claim(self, request: TokenRequest, owner: str, seconds: float) -> Claim | bytes:
        self._look()
        assert seconds > 0
        known = self.rows.get(request)
        if known is not None and known[1] is not None:
            return known[1]
        if known is not None and known[0] not in self.lost:
            return Claim.RUNNING
        if self.refusal is not None:
            return self.refusal
        same_token = [
            one for one in self.rows if (one.issuer, one.jti) == (request.issuer, request.jti)
        ]
        if known is None and len(same_token) >= PER_TOKEN:
            return Claim.TOKEN_FULL
        self.rows[request] = (owner, None)
        return Claim.MINE

    async def answer(self, request: TokenRequest, owner: str, answer: bytes) -> None:
        self._look()
        if self.rows.get(request) == (owner, None):
            self.rows[request] = (owner, answer)

    async def release(self, request: TokenRequest, owner: str) -> None:
        self._look()
        if self.rows.get(request) == (owner, None):
            del self.rows[request]
