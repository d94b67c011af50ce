"""What a transaction of the worker writes: what was decided, and what its plans say."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter
from typing import TypeVar

from consumer.dead_letters import DeadLetter
from consumer.errors import Reason
from consumer.events import cloudevents
from consumer.events.envelope import Encoded, Form, encode
from consumer.kafka.topics import Topic
from consumer.lanes.transaction import LaneTransaction
from consumer.state import operation_outcome
from consumer.state.batch_state import BatchState
from consumer.state.effects import AppliedOperation, Rejection
from consumer.state.progress import LaneReport
from consumer.store import forgotten, identities, lookups, parked, records
from consumer.store.database import Connection
from consumer.store.operations import queue, write
from consumer.store.rows import RefreshWanted
from consumer.worker.loading import REPOS
from consumer.worker.plan import Plan, Planned
from procedures.operations import Operation, Status

K = TypeVar("K")
V = TypeVar("V")

_FORGOTTEN = "the account is forgotten"


async def write_states(connection: Connection, states: Sequence[BatchState]) -> None:
    """Write what the batch states of lanes decided, but for their events."""
    await _write_rows(connection, states)
    for state in states:
        if state.forgotten:
            await _forget(connection, state)
    await _write_operations(connection, states)


async def _write_rows(connection: Connection, states: Sequence[BatchState]) -> None:
    repos = [repo for state in states for repo in state.dirty_repos()]
    dirty = [row for state in states for row in state.dirty_rows()]
    upserts = [(did, path, row.cid, row.rev) for did, path, row in dirty if row is not None]
    gone = [(did, path) for did, path, row in dirty if row is None]
    async with connection.together():
        if repos:
            await REPOS.write(connection, repos)
        if upserts:
            await records.write(connection, upserts)
        if gone:
            await records.delete(connection, gone)
    if cleared := [(one.did, one.through) for state in states for one in state.cleared]:
        await records.clear_tombstones(connection, cleared)


async def _forget(connection: Connection, state: BatchState) -> None:
    """Delete what is known of accounts beside their records, and cancel what is open of them."""
    for did in state.forgotten:
        await write.cancel_open(connection, did, time.time(), _FORGOTTEN)
    await forgotten.forget(connection, state.policy.lane, state.forgotten)


async def _write_operations(connection: Connection, states: Sequence[BatchState]) -> None:
    """Conclude operations, settle those without a need, queue new ones: in this order.

    The operations of all lanes are locked at once, in one order: the controller locks several too.
    """
    applied = [one for state in states for one in state.applied]
    ended = await _conclude(connection, states, applied) if applied else []
    policy = states[0].policy
    retries = policy.retries
    if settled := [did for state in states for did in state.settled]:
        await write.settle(connection, settled)
    for state in states:
        lane = state.policy.lane
        if state.syncs:
            await queue.add(connection, lane, state.syncs, retries.throttle)
        if state.refreshes:
            refreshes = [RefreshWanted(one.did, one.path) for one in state.refreshes]
            wait, reason = retries.automatic.first, Reason.BLOCK_MISSING
            await queue.add_refreshes(connection, lane, refreshes, reason, wait)
    if ended and policy.automatic:
        dids = [one.did for one in ended if one.did is not None]
        await queue.renew(connection, dids, retries.renewal)
        await queue.renew_refreshes(connection, [one.id for one in ended], retries.renewal)


async def _conclude(
    connection: Connection, states: Sequence[BatchState], applied: Iterable[AppliedOperation]
) -> list[Operation]:
    """Write what chunks and proofs did; return the operations that failed."""
    done: dict[str, list[AppliedOperation]] = {}
    for one in applied:
        done.setdefault(one.operation, []).append(one)
    before = await write.lock(connection, list(done))
    active = {did for state in states for did, repo in state.repos.items() if repo.active}
    after = [
        operation_outcome.concluded(
            one,
            done[one.id],
            active=one.did in active,
            now=time.time(),
            retries=states[0].policy.retries,
            chance=random.random(),  # noqa: S311 - it spreads retries
        )
        for one in before
    ]
    await write.save(connection, after)
    failed = {Status.FAILED, Status.CANCELLED}
    return [one for one in after if one.status in failed]


def add_events(transaction: LaneTransaction, state: BatchState, form: Form) -> None:
    """Add the events of a lane to its outbox."""
    for event in state.events:
        encoded = encode(event, form.max_record)
        _add(transaction, encoded, form)
        if encoded.tombstone:
            more = cloudevents.tombstone_headers(encoded) if form.cloudevents else ()
            headers = (*encoded.headers, *more)
            transaction.add(Topic.EVENTS, transaction.number, encoded.key, None, headers)


def add_report(transaction: LaneTransaction, report: LaneReport, form: Form) -> None:
    """Add what a lane says of itself to its outbox."""
    for encoded in report.records:
        _add(transaction, encoded, form)


def _add(transaction: LaneTransaction, encoded: Encoded, form: Form) -> None:
    more = cloudevents.headers(encoded) if form.cloudevents else ()
    headers = (*encoded.headers, *more)
    transaction.add(Topic.EVENTS, transaction.number, encoded.key, encoded.value, headers)


def dead_letters(plan: Plan, refused: Iterable[tuple[Planned, Rejection]]) -> list[DeadLetter]:
    """Return the dead letters of a batch in the order of their sources."""
    lane = plan.position.lane
    letters = [*plan.dead, *(one.dead_letter(why, lane) for one, why in refused if why.kept)]
    return sorted(letters, key=attrgetter("source"))


async def write_plans(connection: Connection, plans: Sequence[Plan]) -> None:
    """Write what the plans of lanes say of identities, lookups and parked frames."""
    if learnt := _joined(plan.identities for plan in plans):
        await identities.write(connection, learnt.values())
    if wanted := _joined(plan.lookups for plan in plans):
        await lookups.request(connection, list(wanted.values()))
    for plan in plans:
        if plan.parks:
            await parked.append(connection, plan.lane, plan.parks)
    if decided := _joined(plan.decided for plan in plans):
        await parked.drop(connection, decided)
    for plan in plans:
        if plan.touched:
            waiting = plan.cache.queues
            await parked.write(connection, plan.lane, plan.cache.parkings(plan.touched))
            await parked.clear(connection, [did for did in plan.touched if did not in waiting])


def _joined(parts: Iterable[Mapping[K, V]]) -> dict[K, V]:
    return dict(chain.from_iterable(part.items() for part in parts))
