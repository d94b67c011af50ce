"""Carrying out one command: ``procedures.admission`` decides, this module writes the rows."""

from __future__ import annotations

from consumer.control import bulks as parents
from consumer.kafka.topics import Topics
from consumer.scope import History, Scope
from consumer.store.database import Connection
from consumer.store.operations import bulks, queue, read, write
from procedures import admission, transitions
from procedures.admission import Accepted, Repeated
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
    command: Command,
    topics: Topics,
    scope: Scope,
    retries: RetryPolicy,
    now: float,
) -> Refusal | None:
    """Insert the operation that ``command`` asks for, or cancel the one that it names.

    ``now`` is in Unix seconds.  Returns the refusal if the command cannot be carried out.
    """
    if isinstance(command, Cancel):
        return await _cancel(connection, command, retries, now)
    known = await read.read(connection, command.id)
    if isinstance(command, BulkCommand):
        return await _begin_bulk(connection, command, known, topics, now)
    if isinstance(command, SearchCommand):
        found = admission.search(command, known, now)
        if isinstance(found, Accepted):
            operation = _searched(found.operation, scope, now)
            await write.insert(connection, operation, topics.partitions)
        return found if isinstance(found, Refusal) else None
    outcome = admission.accept(command, known, await read.open_of(connection, command.did), now)
    match outcome:
        case Refusal():
            return outcome
        case Repeated():
            return None
        case Accepted(operation=operation, primary=primary):
            if primary is not None:
                await write.save(connection, [primary])
            operation = _within(operation, command, scope, now)
            await write.insert(connection, operation, topics.partition_of(command.did))
    return None


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
