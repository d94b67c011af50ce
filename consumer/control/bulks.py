"""Parents: expanding their selections, following their children, ending and cancelling them.

The controller takes a step for each open parent, in a transaction of its lane: what has ended is
counted, and the selection is expanded into more children, as many as there is place for.
Children, counts and the place in the selection are committed together: a controller that goes on
after a crash repeats nothing.  Of all parents the oldest ``PARENTS`` are worked at and share
``OPEN_CHILDREN`` places: a million repositories do not become a million open rows.

All kinds of parents go this way: see ``procedures/operations.py`` for what a new one needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from consumer.kafka.topics import Topics
from consumer.shard import WHOLE, Shard
from consumer.store import routes, selections
from consumer.store.database import Connection
from consumer.store.operations import bulks, queue, read, write
from consumer.store.operations.bulks import Bulk
from procedures import admission, transitions
from procedures.failures import Failure
from procedures.messages import Cancel, Emit
from procedures.operations import Operation, Phase, Status, Type
from procedures.retries import RetryPolicy
from procedures.selections import By

OPEN_CHILDREN = 1_000
PARENTS = 10
_PAGE = 250  # children that one step adds


@dataclass(frozen=True, slots=True)
class _Home:
    """Where children belong: their lanes, and which of them to this deployment."""

    topics: Topics
    shard: Shard


async def step(connection: Connection, topics: Topics, now: float, shard: Shard = WHOLE) -> None:
    """Count what has ended of each open parent, and give it more children; end it if it is done.

    ``now`` is Unix seconds.  Children for accounts of another ``shard`` fail at once.
    """
    home = _Home(topics, shard)
    parents = await bulks.oldest(connection, PARENTS)
    if not parents:
        return
    locked = {one.id: one for one in await write.lock(connection, [p.operation for p in parents])}
    ended = {
        identifier: await bulks.count_ended(connection, identifier, OPEN_CHILDREN)
        for identifier in locked
    }
    uncounted = await bulks.uncounted(connection, list(locked))
    free = OPEN_CHILDREN - sum(uncounted.values())
    for bulk in parents:
        identifier = bulk.operation
        own = uncounted.get(identifier, 0)
        most = min(_PAGE, free, OPEN_CHILDREN // len(parents) - own)
        free -= await _step(
            connection, bulk, locked[identifier], ended[identifier], own, most, home, now
        )


async def _step(
    connection: Connection,
    bulk: Bulk,
    before: Operation,
    ended: Sequence[Operation],
    uncounted: int,
    most: int,
    home: _Home,
    now: float,
) -> int:
    """Take the step of one parent; return how many children it was given, up to ``most``.

    ``ended``: its children that have ended since; ``uncounted``: how many others it has.
    """
    operation = before
    if operation.status is Status.QUEUED:
        operation = transitions.start(operation, max(now, operation.run_after))
        bulk = replace(bulk, expected=await selections.count(connection, bulk.selection))
    after, chosen, skipped = bulk, 0, 0
    if not bulk.selected and most > 0:
        page = await selections.page(connection, bulk.selection, bulk.after, most)
        await _add_children(connection, operation, page.dids, home, now)
        after = replace(bulk, after=page.after or "", selected=page.after is None)
        chosen, skipped = len(page.dids), page.skipped
    if operation != before or ended or after != bulk:
        operation = transitions.note_children(
            operation,
            selected=after.selected,
            expected=after.expected,
            chosen=chosen,
            skipped=skipped,
            ended=ended,
        )
    if after.selected and uncounted + chosen == 0:
        await write.save(connection, [transitions.complete(operation, now)])
        if bulk.selection.by is By.ALL and operation.emit is Emit.ALL:
            await routes.filled(connection, operation.id)
        await bulks.end(connection, operation.id)
    elif operation != before:
        await write.save(connection, [operation])
        await bulks.move(connection, after)
    return chosen


async def _add_children(
    connection: Connection, parent: Operation, dids: tuple[str, ...], home: _Home, now: float
) -> None:
    if not dids:
        return
    others = await read.open_of_all(connection, dids)
    accepted = [
        admission.child(parent, str(uuid4()), did, others.get(did, ()), now) for did in dids
    ]
    await write.save(connection, [each.primary for each in accepted if each.primary is not None])
    children = [
        _here(each.operation, home.shard.elsewhere(did), now)
        for each, did in zip(accepted, dids, strict=True)
    ]
    await write.insert_all(connection, children, [home.topics.partition_of(did) for did in dids])


def _here(child: Operation, elsewhere: str | None, now: float) -> Operation:
    """Return ``child``, as failed if its account is ``elsewhere``: another shard's."""
    if elsewhere is None:
        return child
    return transitions.fail(child, now, Failure.OTHER_SHARD, elsewhere)


async def cancel(
    connection: Connection, command: Cancel, parent: Operation, retries: RetryPolicy, now: float
) -> None:
    """Cancel a parent that has not ended, and every child of it that has not.

    Operations that are coalesced with one of these go on without it.
    """
    children = await bulks.open_children(connection, parent.id)
    coalesced = await read.coalesced_with_all(connection, [one.id for one in children])
    changed: list[Operation] = []
    for child in children:
        outcome = admission.cancel(command, child, coalesced.get(child.id, ()), now)
        if isinstance(outcome, admission.Cancelled):
            changed += outcome.changed
    await write.save(connection, changed)
    syncs = [one.did for one in children if one.type is Type.DID_SYNC and one.did]
    await queue.renew(connection, syncs, retries.renewal)
    ended = await bulks.count_ended(connection, parent.id, OPEN_CHILDREN + len(children))
    if parent.status is Status.RUNNING:
        parent = transitions.note_children(
            parent,
            selected=parent.phase is Phase.CHILDREN,
            expected=None if parent.children is None else parent.children.expected,
            ended=ended,
        )
    outcome = admission.cancel(command, parent, (), now)
    if isinstance(outcome, admission.Cancelled):
        await write.save(connection, outcome.changed)
    await bulks.end(connection, parent.id)
