"""Carrying out commands: ``procedures.admission`` decides, this module writes the rows.

Commands often come by the thousand.  Those in a row that ask for work on one repository are read
and written at once, and decided one after the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter

from consumer.control import bulks as parents
from consumer.kafka.topics import Topics
from consumer.scope import History, Scope
from consumer.store.database import Connection
from consumer.store.operations import bulks, queue, read, write
from procedures import admission, transitions
from procedures.admission import Accepted
from procedures.failures import Failure
from procedures.messages import (
    BulkCommand,
    Cancel,
    Command,
    Refusal,
    SearchCommand,
    WorkCommand,
)
from procedures.operations import CHILD_TYPES, Operation, Type
from procedures.retries import RetryPolicy

# Running refreshes are indexed by their URI, and PostgreSQL's index rows end at 2,704 bytes.
# With any path, that leaves room for DIDs far longer than those that can be resolved.
_MAX_URI = 2_560


async def carry_out(
    connection: Connection,
    commands: Sequence[Command],
    topics: Topics,
    scope: Scope,
    retries: RetryPolicy,
    now: float,
) -> list[Refusal | None]:
    """Insert the operations that ``commands`` ask for, or cancel those that they name, in order.

    ``now`` is in Unix seconds.  Returns a refusal for each command that cannot be carried out.
    """
    refusals: list[Refusal | None] = []
    for _, run in groupby(commands, lambda one: isinstance(one, WorkCommand)):
        work: list[WorkCommand] = []
        for command in run:
            if isinstance(command, WorkCommand):
                work.append(command)
            else:
                refusals.append(await _carry_out(connection, command, topics, scope, retries, now))
        if work:
            refusals += await _admit(connection, work, topics, scope, now)
    return refusals


async def _carry_out(
    connection: Connection,
    command: Cancel | BulkCommand | SearchCommand,
    topics: Topics,
    scope: Scope,
    retries: RetryPolicy,
    now: float,
) -> Refusal | None:
    if isinstance(command, Cancel):
        return await _cancel(connection, command, retries, now)
    known = await read.read(connection, command.id)
    if isinstance(command, BulkCommand):
        return await _begin_bulk(connection, command, known, topics, now)
    found = admission.search(command, known, now)
    if isinstance(found, Accepted):
        operation = _searched(found.operation, scope, now)
        await write.insert(connection, operation, topics.partitions)
    return found if isinstance(found, Refusal) else None


async def _admit(
    connection: Connection,
    commands: Sequence[WorkCommand],
    topics: Topics,
    scope: Scope,
    now: float,
) -> list[Refusal | None]:
    """Insert the operations of commands that ask for work; the earlier ones count for the later."""
    known = await read.read_all(connection, [one.id for one in commands])
    open_ = await read.open_of_all(connection, list({one.did for one in commands}))
    new: dict[str, Operation] = {}
    changed: dict[str, Operation] = {}
    refusals: list[Refusal | None] = []
    for command in commands:
        others = open_.get(command.did, [])
        outcome = admission.accept(command, known.get(command.id), others, now)
        refusals.append(outcome if isinstance(outcome, Refusal) else None)
        if not isinstance(outcome, Accepted):
            continue
        operation, primary = _within(outcome.operation, command, scope, now), outcome.primary
        known[operation.id] = new[operation.id] = operation
        if primary is not None:
            (new if primary.id in new else changed)[primary.id] = primary
            others = [primary if one.id == primary.id else one for one in others]
        open_[command.did] = _oldest_first([*others, operation])
    await write.save(connection, list(changed.values()))
    if new:
        lanes = [topics.partition_of(one.did or "") for one in new.values()]
        await write.insert_all(connection, list(new.values()), lanes)
    return refusals


def _oldest_first(operations: Iterable[Operation]) -> list[Operation]:
    """Return those of ``operations`` that have not ended, as ``read.open_of_all`` orders them."""
    open_ = [one for one in operations if not one.ended]
    return sorted(open_, key=attrgetter("requested_at", "id"))


async def _begin_bulk(
    connection: Connection,
    command: BulkCommand,
    known: Operation | None,
    topics: Topics,
    now: float,
) -> Refusal | None:
    decided = admission.bulk(command, known, now)
    if isinstance(decided, Accepted):
        await write.insert(connection, decided.operation, topics.partitions)
        await bulks.begin(connection, command.id, command.selection)
    return decided if isinstance(decided, Refusal) else None


def _searched(operation: Operation, scope: Scope, now: float) -> Operation:
    """Return ``operation``, as failed if nothing is searched here: it would wait for ever."""
    if scope.history is History.FULL:
        return operation
    error = "repositories are not searched for: scope.history is live"
    return transitions.fail(operation, now, Failure.OUT_OF_SCOPE, error)


def _within(operation: Operation, command: WorkCommand, scope: Scope, now: float) -> Operation:
    """Return ``operation``, as failed if it is work that cannot be done here."""
    if error := scope.shard.elsewhere(command.did):
        return transitions.fail(operation, now, Failure.OTHER_SHARD, error)
    if command.uri is None:
        return operation
    if len(command.uri) > _MAX_URI:
        error = f"a DID of {len(command.did)} characters cannot be resolved"
        return transitions.fail(operation, now, Failure.DID_METHOD, error)
    path = command.uri.removeprefix(f"at://{command.did}/")
    if scope.wants(path):
        return operation
    collection = path.partition("/")[0]
    error = f"{collection} is not among the wanted collections: {', '.join(scope.collections)}"
    return transitions.fail(operation, now, Failure.OUT_OF_SCOPE, error)


async def _cancel(
    connection: Connection, command: Cancel, retries: RetryPolicy, now: float
) -> Refusal | None:
    target = await read.read(connection, command.operation_id)
    if target is not None and target.type in CHILD_TYPES and not target.ended:
        await parents.cancel(connection, command, target, retries, now)
        return None
    waiting = await read.coalesced_with(connection, command.operation_id)
    outcome = admission.cancel(command, target, waiting, now)
    if isinstance(outcome, Refusal):
        return outcome
    await write.save(connection, outcome.changed)
    if outcome.changed and target is not None and target.type is Type.DID_SYNC and target.did:
        await queue.renew(connection, [target.did], retries.renewal)
    return None
