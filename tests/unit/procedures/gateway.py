"""A gateway whose ports are played by the test."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpx

from procedures import transitions
from procedures.calls import Calls, Ports
from procedures.contract import (
    CHECK_STALENESS,
    GET_BACKFILL_HISTORY,
    GET_BACKFILL_STATUS,
    GET_FIREHOSE_STATUS,
    INDEX_RECORD,
    LIST_DLQ_ENTRIES,
    REFRESH_RECORD,
    REGISTER_PDS,
    RETRY_DLQ_ENTRY,
    TRIGGER_BACKFILL,
    TRIGGER_DID_SYNC,
    VERIFY,
    ErrorName,
    Method,
    XrpcError,
)
from procedures.gateway import Gateway, GatewayLimits, create_app
from procedures.operations import Operation, Type, queued
from procedures.replays import Replays, TokenRequest, digest_of
from procedures.service import Service
from procedures.tokens import Token
from tests.unit.procedures.fakes import Broker, DeadLetters, Hosts, Memory, Records, Table, Tailer
from tests.unit.procedures.strategies import DID

CALLER, ADMIN = "did:plc:caller", "did:plc:admin"
REFRESH, TRIGGER = f"/xrpc/{REFRESH_RECORD}", f"/xrpc/{TRIGGER_DID_SYNC}"
INDEX = f"/xrpc/{INDEX_RECORD}"
BACKFILL = f"/xrpc/{TRIGGER_BACKFILL}"
REGISTER = f"/xrpc/{REGISTER_PDS}"
FIREHOSE = f"/xrpc/{GET_FIREHOSE_STATUS}"
LETTERS, RETRY = f"/xrpc/{LIST_DLQ_ENTRIES}", f"/xrpc/{RETRY_DLQ_ENTRY}"
CHECK, STALE = f"/xrpc/{VERIFY}", f"/xrpc/{CHECK_STALENESS}"
STATUS, HISTORY = f"/xrpc/{GET_BACKFILL_STATUS}", f"/xrpc/{GET_BACKFILL_HISTORY}"


class Trusting:
    """An authenticator that believes the header: DID and jti, by default a new one each time."""

    def __init__(self) -> None:
        self._serial = itertools.count(1)

    async def authenticate(self, authorization: Sequence[str], _method: Method) -> Token:
        if not authorization:
            raise XrpcError(ErrorName.AUTHENTICATION_REQUIRED, "who are you?")
        issuer, _, jti = authorization[0].partition(" ")
        return Token(issuer, "k256", jti or f"jti-{next(self._serial)}", 65.0, b"", b"")


def operation_id(path: str, body: dict[str, Any], jti: str = "jti-1") -> str:
    """Return the id of the operation that a call becomes."""
    digest = digest_of(path.removeprefix("/xrpc/"), body)
    return TokenRequest(CALLER, jti, 65.0, True, digest).identifier


class Rig:
    """A gateway with its surroundings."""

    def __init__(
        self,
        authenticator: Any = None,
        memory: Replays | None = None,
        *,
        broker: Broker | None = None,
        table: Table | None = None,
        token_reuse: bool = True,
        elsewhere: Callable[[str], str | None] = lambda _did: None,
        clock: Callable[[], float] = time.monotonic,
        **limits: Any,
    ) -> None:
        self.broker = broker or Broker()
        self.table = table or Table()
        self.memory = Memory()
        self.hosts = Hosts()
        self.index = Records()
        self.firehose = Tailer()
        self.letters = DeadLetters()
        self.observed: list[tuple[str, int]] = []
        ports = Ports(
            commands=self.broker,
            operations=self.table,
            hosts=self.hosts,
            index=self.index,
            firehose=self.firehose,
            letters=self.letters,
            elsewhere=elsewhere,
        )
        gateway = Gateway(
            authenticator or Trusting(),
            Calls(ports, {ADMIN}, clock=lambda: 5.0),
            memory or self.memory,
            Service("did:web:localhost%3A8099"),
            GatewayLimits(**limits),
            lambda method, status, _seconds: self.observed.append((method, status)),
            token_reuse=token_reuse,
            clock=clock,
        )
        self.app = create_app(gateway)

    def client(self, address: str = "192.0.2.1") -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 1234))
        headers = {"Authorization": CALLER}
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)

    async def post(self, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.post(path, **options)

    async def get(self, path: str, **options: Any) -> httpx.Response:
        async with self.client() as client:
            return await client.get(path, **options)


def error_of(response: httpx.Response, status: int, name: str) -> str:
    assert response.status_code == status, response.text
    body = response.json()
    assert body.keys() == {"error", "message"}
    assert body["error"] == name
    message = body["message"]
    assert isinstance(message, str)
    return message


def running(identifier: str = "op-1", kind: Type = Type.DID_SYNC) -> Operation:
    return transitions.start(queued(identifier, kind, DID, 5.0), 5.0)
