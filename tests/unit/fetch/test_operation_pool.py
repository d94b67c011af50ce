"""Which operations are claimed into which slots, and what a heartbeat writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import pytest

from consumer.errors import Transient
from consumer.fetch import operations
from consumer.fetch.attempts import Attempts
from consumer.fetch.hosts import HostBusy, HostPolicy, Hosts
from consumer.fetch.operations import Attempt, OperationPool
from consumer.state.accounts import AccountRules
from consumer.store.database import Database
from consumer.store.operations import claims
from consumer.store.operations.claims import Claim
from consumer.store.rows import DueOperation, WantedOperations
from procedures.operations import Operation, Phase, Type
from procedures.retries import DEFAULT

SYNC, REFRESH = Type.DID_SYNC, Type.RECORD_REFRESH


def claim_of(kind: Type, number: int, *, automatic: bool = False, behind: bool = False) -> Claim:
    operation = cast("Operation", _Operation(f"{kind}-{number}", kind, automatic, behind))
    return cast("Claim", _Claim(f"lease-{kind}-{number}", operation))


@dataclass(frozen=True)
class _Operation:
    id: str
    type: Type
    automatic: bool
    behind: bool
    host: str = ""

    @property
    def did(self) -> str:
        return self.id


@dataclass(frozen=True)
class _Claim:
    lease: str
    operation: Operation


@dataclass
class Queue:
    """Stands for the operations in Postgres."""

    due: list[Claim] = field(default_factory=list)
    held: set[str] = field(default_factory=set)
    busy: list[Sequence[str]] = field(default_factory=list)
    noted: list[tuple[object, ...]] = field(default_factory=list)
    injections: list[list[tuple[str, int]]] = field(default_factory=list)
    steps: list[list[str]] = field(default_factory=list)
    away: bool = False

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        yield
        if self.away:
            raise Transient("Postgres is away")

    async def injected(self, _connection: object, ended: Sequence[tuple[Claim, int]]) -> None:
        self.injections.append([(claim.operation.id, offset) for claim, offset in ended])

    async def in_step(self, _connection: object, leases: Sequence[str]) -> None:
        self.steps.append(list(leases))

    async def next(
        self,
        _connection: object,
        wanted: Sequence[WantedOperations],
        *,
        most: int,
        busy: Sequence[str],
    ) -> list[DueOperation]:
        self.busy.append(busy)
        found: list[DueOperation] = []
        for each in wanted:
            fitting = [
                DueOperation(one.type, one.id, one.did, None, one.automatic, one.behind, one.host)
                for one in (cast("_Operation", claim.operation) for claim in self.due)
                if one.type is each.type
                and (each.automatic or not one.automatic)
                and (each.behind or not one.behind)
            ]
            found += fitting[:most]
        return found

    async def claim(self, _connection: object, ids: Sequence[str], _seconds: float) -> list[Claim]:
        by_id = {one.operation.id: one for one in self.due}
        self.due = [one for one in self.due if one.operation.id not in ids]
        return [by_id[each] for each in ids]

    async def next_due(self, _connection: object) -> float | None:
        return 7.0

    async def extend(self, _connection: object, leases: Sequence[str], _seconds: float) -> set[str]:
        return self.held & set(leases)

    async def note(self, _connection: object, *progress: object) -> None:
        self.noted.append(progress)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    queue = Queue()
    monkeypatch.setattr(claims, "due", queue.next)
    for name in ("claim", "next_due", "extend", "note", "injected", "in_step"):
        monkeypatch.setattr(claims, name, getattr(queue, name))
    return queue


class Carried:
    """Stands for attempts that end well: behind which offset by operation, None: in step."""

    def __init__(self, offsets: dict[str, int | None]) -> None:
        self._offsets = offsets

    async def carry_out(self, claim: Claim, _report: object) -> int | None:
        return self._offsets[claim.operation.id]


def pool_of(
    queue: Queue, offsets: dict[str, int | None] | None = None, **slots: int
) -> tuple[OperationPool, Hosts]:
    hosts = Hosts(HostPolicy(1, DEFAULT.host), {}, DEFAULT)
    by_type = {REFRESH: slots["refreshes"], SYNC: slots["syncs"]}
    database = cast("Database", queue)
    attempts = cast("Attempts", Carried(offsets or {}))
    return OperationPool(attempts, database, hosts, by_type, DEFAULT, AccountRules(), 15.0), hosts


async def leased(pool: OperationPool, running: list[Attempt]) -> list[str]:
    before = len(running)
    look = await pool.lease(running, running.append)
    assert (look.due, look.after_each) == (7.0, True)
    return [attempt.claim.operation.id for attempt in running[before:]]


async def test_each_type_has_slots_of_its_own(queue: Queue) -> None:
    queue.due = [claim_of(kind, n) for n in range(3) for kind in (SYNC, REFRESH)]
    pool, _ = pool_of(queue, syncs=1, refreshes=2)
    running: list[Attempt] = []
    assert await leased(pool, running) == [f"{REFRESH}-0", f"{REFRESH}-1", f"{SYNC}-0"]
    assert await leased(pool, running) == []
    del running[0]
    assert await leased(pool, running) == [f"{REFRESH}-2"]


async def test_while_hosts_turn_attempts_away_few_syncs_begin(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many syncs whose host is not known may all go to one that has no room for them."""
    queue.due = [claim_of(SYNC, n) for n in range(20)]
    pool, hosts = pool_of(queue, syncs=8, refreshes=1)
    async with hosts.slot("pds.example"):
        waiting = asyncio.create_task(enter(hosts, "pds.example"))
        await asyncio.sleep(0)
        with pytest.raises(HostBusy):
            await enter(hosts, "pds.example")
        waiting.cancel()
    running: list[Attempt] = []
    assert await leased(pool, running) == [f"{SYNC}-0", f"{SYNC}-1"]
    monkeypatch.setattr(Hosts, "crowded", False)
    assert len(await leased(pool, running)) == 6


async def enter(hosts: Hosts, name: str) -> None:
    async with hosts.slot(name):
        pass


async def test_one_slot_is_kept_for_what_a_person_requested(queue: Queue) -> None:
    queue.due = [claim_of(SYNC, n, automatic=True) for n in range(3)]
    pool, _ = pool_of(queue, syncs=2, refreshes=1)
    running: list[Attempt] = []
    assert await leased(pool, running) == [f"{SYNC}-0"]
    queue.due.append(claim_of(SYNC, 9))
    assert await leased(pool, running) == [f"{SYNC}-9"]


async def test_what_was_requested_with_many_others_leaves_half_of_the_slots(queue: Queue) -> None:
    queue.due = [claim_of(SYNC, n, behind=True) for n in range(6)]
    queue.due.append(claim_of(SYNC, 8, automatic=True))
    pool, _ = pool_of(queue, syncs=4, refreshes=1)
    running: list[Attempt] = []
    assert await leased(pool, running) == [f"{SYNC}-0", f"{SYNC}-1", f"{SYNC}-8"]
    queue.due.append(claim_of(SYNC, 9))
    assert await leased(pool, running) == [f"{SYNC}-9"]


async def test_what_was_requested_with_many_others_takes_what_nobody_else_needs(
    queue: Queue,
) -> None:
    queue.due = [claim_of(SYNC, n, behind=True) for n in range(6)]
    pool, _ = pool_of(queue, syncs=4, refreshes=1)
    running: list[Attempt] = []
    assert await leased(pool, running) == [f"{SYNC}-{n}" for n in range(3)]
    queue.due += [claim_of(SYNC, 8, automatic=True), claim_of(SYNC, 9)]
    del running[0]
    assert await leased(pool, running) == [f"{SYNC}-8", f"{SYNC}-9"]
    single, _ = pool_of(queue, syncs=1, refreshes=1)
    assert await leased(single, []) == [f"{SYNC}-3"]


async def test_a_single_slot_takes_automatic_operations_too(queue: Queue) -> None:
    queue.due = [claim_of(SYNC, 0, automatic=True)]
    pool, _ = pool_of(queue, syncs=1, refreshes=1)
    assert await leased(pool, []) == [f"{SYNC}-0"]


async def test_busy_hosts_are_named(queue: Queue) -> None:
    pool, hosts = pool_of(queue, syncs=1, refreshes=1)
    async with hosts.slot("pds.example"):
        await leased(pool, [])
    assert queue.busy == [["pds.example"]]


async def test_a_heartbeat_writes_new_progress_of_what_is_held(queue: Queue) -> None:
    pool, _ = pool_of(queue, syncs=1, refreshes=1)
    held, quiet, lost = (Attempt(claim_of(SYNC, number)) for number in range(3))
    queue.held = {held.claim.lease, quiet.claim.lease}
    held.report(Phase.DOWNLOADING, 5, None)
    held.report(Phase.INJECTING, 40, 12)
    lost.report(Phase.DOWNLOADING, 5, None)
    assert list(await pool.extend([held, quiet, lost])) == [held, quiet]
    assert queue.noted == [(held.claim.lease, Phase.INJECTING, 40, 12)]
    assert list(await pool.extend([held])) == [held]
    assert len(queue.noted) == 1, "written once"


async def ended(queue: Queue, offsets: dict[str, int | None]) -> OperationPool:
    """Return a pool whose attempts have ended so."""
    pool, _ = pool_of(queue, offsets, syncs=4, refreshes=1)
    for number in range(len(offsets)):
        assert not await pool.handle(Attempt(claim_of(SYNC, number)))
    assert not queue.injections
    assert not queue.steps
    return pool


async def test_ends_are_written_together(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operations, "_WORKER_SECONDS", 0.0)
    pool = await ended(queue, {f"{SYNC}-0": 7, f"{SYNC}-1": None, f"{SYNC}-2": 9})
    await leased(pool, [])
    await leased(pool, [])
    assert queue.injections == [[(f"{SYNC}-0", 7), (f"{SYNC}-2", 9)]], "once"
    assert queue.steps == [[f"lease-{SYNC}-1"]]


async def test_the_worker_may_end_an_injected_operation_first(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_WORKER_SECONDS", 5.0)
    pool = await ended(queue, {f"{SYNC}-0": 7, f"{SYNC}-1": None})
    look = await pool.lease([], lambda _: None)
    assert not queue.injections
    assert queue.steps == [[f"lease-{SYNC}-1"]]
    assert look.due is not None
    assert 4.0 < look.due <= 5.0, "there is something to write then"
    await pool.write_ended()
    assert queue.injections == [[(f"{SYNC}-0", 7)]]


async def test_ends_that_were_not_written_are_written_again(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operations, "_WORKER_SECONDS", 0.0)
    pool = await ended(queue, {f"{SYNC}-0": 7})
    queue.away = True
    with pytest.raises(Transient):
        await leased(pool, [])
    queue.away = False
    await pool.write_ended()
    assert queue.injections == [[(f"{SYNC}-0", 7)]] * 2
