"""Make the tables of a deployment again from its topics.

0. Every lane's publisher is fenced, and its last transaction decided.
1. The newest event of each record and account is collected from ``chive.events``: what consumers
   know.  A record whose topic has changed is in several: that with the highest ``out_seq`` counts.
2. Records and repositories become exactly that, page by page, and every repository is to be synced:
   what has happened since is repaired from the hosts as in a loss window, and only differences are
   published.
3. Operations that had not ended are failed; those that people asked for since the backup come
   back from ``chive.operations``.  All listings are read anew.
4. The lanes go on behind their markers.  Frames are read again from where the tables were, as far
   as they are kept; commands are not.

Until the last step the deployment is halted, so a recovery that was interrupted is begun anew.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from uuid import uuid4

import orjson

from consumer.errors import Fatal
from consumer.kafka.reader import PartitionReader, Record, TopicPartition
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import TransactionalProducer
from consumer.lanes.marker import Marker
from consumer.lanes.publisher import take_over
from consumer.recovery.findings import Findings
from consumer.services import Services, scope_of
from consumer.store import deployment, recovery
from consumer.store.operations import read, write
from consumer.store.recovery import Resumed, Told
from procedures import operations, transitions
from procedures.failures import Failure
from procedures.operations import Operation
from procedures.syntax import parse_cid

LOST = "PostgreSQL was restored from an older state while it was under way"
_PAGE = 2_000  # events, DIDs or operations at once

Report = Callable[[str, int], None]
"""Takes what is being done, and how much of it is done."""


async def rebuild(services: Services, found: Findings, report: Report) -> None:
    """Make the tables again, and let processes use them.  Raises ``Transient`` or ``Fatal``."""
    database = services.database
    async with database.transaction() as connection:
        await deployment.halt(connection, "a recovery has not ended: run it again")
        await recovery.stage(connection)
    published = await _fence(services, found)
    await _collect_events(services, report)
    await _take_over(services, report)
    await _operations(services, report)
    async with database.transaction() as connection:
        for one in found.lanes:
            marker = published[one.lane]
            at = (one.lane, one.firehose, one.backfill, one.control)
            await recovery.resume(connection, Resumed(*at, marker.out_seq, marker.stamp))
        await recovery.drop_open_work(connection)
        await recovery.unstage(connection)
        await deployment.lift_halt(connection)


async def _fence(services: Services, found: Findings) -> dict[int, Marker]:
    """Let no process of before publish any more, and return what each lane has published."""
    topic, name = services.topics.name(Topic.PUBLISHED), f"recovery-{uuid4().hex}"
    async with await TransactionalProducer.open(services.client, name) as producer:
        return {
            one.lane: await take_over(
                producer, services.client, TopicPartition(topic, one.lane), undecided=True
            )
            for one in found.lanes
        }


async def _collect_events(services: Services, report: Report) -> None:
    """Read every topic of events, one after the other: ``out_seq`` tells what is newer."""
    done = 0
    for name in services.topics.event_topics:
        async for page in _pages(services, name, services.topics.partitions):
            records, accounts = newest(page)
            async with services.database.transaction() as connection:
                await recovery.collect(connection, records, accounts)
            done += len(page)
            report("events read", done)


def newest(page: Iterable[Record]) -> tuple[list[Told], dict[str, str]]:
    """Return the newest state of each record, and each account's status, of a page of one topic."""
    records: dict[tuple[str, str], Told] = {}
    accounts: dict[str, str] = {}
    for record in page:
        if record.value is None:
            continue  # a delete event precedes each tombstone, or both are compacted away
        event = orjson.loads(record.value)
        did = event.get("did")  # None: a lane speaks of itself
        if event["type"] == "record":
            path = f"{event['collection']}/{event['rkey']}"
            cid = parse_cid(event["cid"]) if event["cid"] else None
            out_seq = int(dict(record.headers)["out_seq"])
            records[did, path] = Told(did, path, cid, event["rev"], out_seq)
        elif event["type"] == "account":
            accounts[did] = event["status"]
    return list(records.values()), accounts


async def _take_over(services: Services, report: Report) -> None:
    after, done, scope = "", 0, scope_of(services.settings)
    while True:
        async with services.database.transaction() as connection:
            dids = await recovery.dids(connection, after, _PAGE)
            if not dids:
                return
            lanes = {did: services.topics.partition_of(did) for did in dids}
            await recovery.take_over(connection, lanes, scope.digest)
        after, done = dids[-1], done + len(dids)
        report("repositories", done)


async def _operations(services: Services, report: Report) -> None:
    """End what had not ended, and take back what the tables do not know."""
    done = 0
    async for page in _pages(services, services.topics.name(Topic.OPERATIONS), 1):
        shown = _shown(page)
        async with services.database.transaction() as connection:
            known = await read.read_all(connection, list(shown))
            wanted = [one for one in shown.values() if _is_taken_back(one, known.get(one.id))]
            missing = [one for one in wanted if one.id not in known]
            if missing:
                lanes = [services.topics.partition_of(one.did or "") for one in missing]
                await write.insert_all(connection, missing, lanes)
            if wanted:
                await write.save(connection, [_ended(one) for one in wanted])
        done += len(page)
        report("operations", done)
    async with services.database.transaction() as connection:
        left = await recovery.open_operations(connection)
    for start in range(0, len(left), _PAGE):
        async with services.database.transaction() as connection:
            locked = await write.lock(connection, left[start : start + _PAGE])
            await write.save(connection, [_ended(one) for one in locked])


def _shown(page: Iterable[Record]) -> dict[str, Operation]:
    shown: dict[str, Operation] = {}
    for record in page:
        key = (record.key or b"").decode()
        if record.value is None:
            shown.pop(key, None)
            continue
        try:
            shown[key] = operations.from_json(orjson.loads(record.value))
        except (KeyError, ValueError) as error:
            raise Fatal(
                f"operation {key} on chive.operations is not readable: {error!r}"
            ) from error
    return shown


def _is_taken_back(shown: Operation, known: Operation | None) -> bool:
    """Tell whether the topic says more of an operation than the tables."""
    if known is None:
        return not (shown.automatic and shown.ended)
    return shown.version > known.version


def _ended(operation: Operation) -> Operation:
    if operation.ended:
        return operation
    alone = replace(operation, same_as=None)
    return transitions.fail(alone, time.time(), Failure.INTERNAL, LOST)


async def _pages(
    services: Services, topic: str, partitions: int
) -> AsyncIterator[Sequence[Record]]:
    """Yield the records of a topic that are there now, each partition in order."""
    places = [TopicPartition(topic, n) for n in range(partitions)]
    async with await PartitionReader.open(services.client, dict.fromkeys(places)) as reader:
        async for page in reader.until_end(limit=_PAGE):
            yield page
