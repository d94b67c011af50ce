"""An hour of the web client's life, at gateways whose broker and table are played."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import httpx

from procedures import transitions
from procedures.auth import ServiceAuth
from procedures.contract import (
    GET_BACKFILL_HISTORY,
    GET_BACKFILL_STATUS,
    REGISTER_PDS,
    TRIGGER_DID_SYNC,
)
from procedures.messages import Cancel, Command, DidSync, RegisterHost
from procedures.operations import Operation, Status, Type, queued
from procedures.replays import Replays
from procedures.service import Service
from tests.support.chive_client import WebClient
from tests.unit.procedures import service_auth
from tests.unit.procedures.fakes import Broker, Table
from tests.unit.procedures.gateway import Rig

HOUR = 3_600
_QUEUED_SECONDS, _SYNC_SECONDS = 4, 90
_LIFE = 60.0  # seconds, of a token
_LOGINS = 12


@dataclass
class Clock:
    """Time passes when the test says so."""

    now: float

    def __call__(self) -> float:
        return self.now


class Pds:
    """Signs tokens of an administrator, like the reference PDS: 60 s, a new jti each time."""

    def __init__(self, clock: Clock) -> None:
        self.key = service_auth.Key.make()
        self._clock = clock

    async def service_auth(self, audience: str, method: str) -> tuple[str, float]:
        now = self._clock()
        expires = now + _LIFE
        claims = service_auth.claims(
            method, service_auth.ADMIN, aud=audience, iat=int(now), exp=int(expires)
        )
        return service_auth.token(self.key, claims), int(expires)


@dataclass
class Backfills:
    """What controller, fetcher and worker make of commands: queued, running, completed."""

    clock: Clock
    table: Table
    started: dict[str, float] = field(default_factory=dict)

    def take(self, command: Command) -> None:
        now = self.clock()
        if isinstance(command, Cancel):
            self.table.put(transitions.cancel(self.table.rows[command.operation_id], now))
            return
        if isinstance(command, RegisterHost):
            found = queued(command.id, Type.DISCOVERY, None, now, reason=command.subject)
            self.table.put(transitions.complete(transitions.start(found, now), now))
            return
        assert isinstance(command, DidSync)
        if command.id not in self.table.rows:
            self.started[command.id] = now
            sync = queued(command.id, Type.DID_SYNC, command.did, now, requested_by="someone")
            self.table.put(sync)

    def go_on(self) -> None:
        for identifier, since in self.started.items():
            operation = self.table.rows[identifier]
            after = self._next(operation, self.clock() - since)
            if after is not None:
                self.table.put(after)

    def _next(self, operation: Operation, age: float) -> Operation | None:
        now = self.clock()
        if operation.status is Status.QUEUED and age >= _QUEUED_SECONDS:
            return transitions.start(operation, now)
        if operation.status is Status.RUNNING and age >= _SYNC_SECONDS:
            return transitions.complete(operation, now)
        return None


async def live_an_hour(memories: Sequence[Replays], fragment: str, seed: int, start: float) -> None:
    """Let the client live for an hour at a gateway for each of ``memories``; check what it sees."""
    clock, chance = Clock(start), Random(seed)
    pds, keys, table, broker = Pds(clock), service_auth.Keys(), Table(), Broker()
    keys.cached = {service_auth.ADMIN: pds.key}
    backfills = Backfills(clock, table)
    broker.on_send = backfills.take
    service = Service(service_auth.SERVICE)
    rigs = [
        Rig(
            ServiceAuth(keys, service.audiences, {service_auth.ADMIN}, clock=clock),
            memory,
            broker=broker,
            table=table,
            clock=clock,
        )
        for memory in memories
    ]
    turn = itertools.cycle(rigs)

    async def send(verb: str, path: str, options: dict[str, Any]) -> httpx.Response:
        async with next(turn).client() as client:
            return await client.request(verb, path, **options)

    client = WebClient(pds, send, service_auth.SERVICE + fragment, clock)
    asked, cancelled = await _live(client, clock, backfills.go_on, chance)

    assert {status for _, status in client.answers} == {200}
    assert client.answers[GET_BACKFILL_STATUS, 200] == HOUR // 5
    assert client.answers[GET_BACKFILL_HISTORY, 200] == HOUR // 30
    assert client.answers[REGISTER_PDS, 200] == _LOGINS
    assert client.tokens[GET_BACKFILL_STATUS] <= HOUR // (_LIFE - 10) + 1
    # Each operation was asked for by one command, however often its button was pressed.
    syncs = [command.id for command in broker.sent if isinstance(command, DidSync)]
    assert len(syncs) == len(set(syncs)) == len(asked)
    assert client.answers[TRIGGER_DID_SYNC, 200] > len(asked) > client.tokens[TRIGGER_DID_SYNC]
    stopped = {o.id for o in table.rows.values() if o.status is Status.CANCELLED}
    assert stopped == cancelled
    assert cancelled


async def _live(
    client: WebClient, clock: Clock, go_on: Callable[[], None], chance: Random
) -> tuple[set[str], set[str]]:
    """Return the operations that were asked for, and those that were cancelled."""
    asked: set[str] = set()
    cancelled: set[str] = set()
    waiting: set[str] = set()
    serial = itertools.count()
    for second in range(HOUR):
        clock.now += 1.0
        go_on()
        if second % 5 == 0:
            page = await client.status()
            assert {o["id"] for o in page} <= asked
            assert all(o["status"] == "running" for o in page)
            waiting.update(o["id"] for o in page if o["progress"] == 0)
        if second % (HOUR // _LOGINS) == 0:
            assert await client.log_in("https://pds.example")
        if second % 30 == 0:
            over = [o["id"] for o in await client.history() if o["type"] == Type.DID_SYNC]
            assert set(over) <= asked
        if chance.random() < 0.01:  # somebody syncs a few accounts, and is impatient
            dids = [f"did:plc:{next(serial)}" for _ in range(chance.randint(1, 4))]
            found = [await client.trigger(did) for did in dids]
            assert [await client.trigger(did) for did in dids] == found
            assert asked.isdisjoint(found)
            assert len(set(found)) == len(dids)
            asked.update(found)
            if chance.random() < 0.3:
                assert await client.cancel(found[0])
                assert await client.cancel(found[0]), "a double click"
                cancelled.add(found[0])
    assert waiting, "what waits for its turn is under way, too"
    return asked, cancelled
