"""What no firehose tells: people write behind the consumer's back, and it is put right on demand.

While the consumer is down four people change their repositories, and the cursor is moved past
it: as if the relay had lost those frames without a trace.  Two of the repositories are repaired
whole, and of the others the one record that is wrong; half of it by commands on
``chive.control``, half by calls of the gateway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import orjson

from consumer.errors import Fatal
from consumer.kafka.topics import Topic
from consumer.kafka.transaction import OutRecord
from consumer.kafka.writer import Writer
from consumer.store.operations import read
from demo.author import Author, Written
from demo.catch_up import read_cursor
from demo.gateway import Gateway
from demo.observe import Observer
from procedures.contract import REFRESH_RECORD, TRIGGER_DID_SYNC

_COMMANDS = """
SELECT count(*), count(*) FILTER (WHERE status = 'completed')
FROM operations WHERE NOT automatic AND type <> 'discovery'
"""
_OPEN = ("queued", "running")
_POLL = 0.3
_DEADLINE = 120.0


@dataclass(frozen=True, slots=True)
class Missed:
    """What was changed while the consumer was down.

    ``synced`` and ``asker`` have changed much of their repositories; ``deleted`` is a
    submission that is gone, ``revised`` one that ``reviser`` has changed.
    """

    synced: Author
    deleted: Written
    asker: Author
    reviser: Author
    revised: Written


async def missed(observer: Observer, authors: Sequence[Author]) -> Missed:
    """Let people write, and move the cursor past it; the consumer must be down."""
    synced, deleter, asker, reviser = [author for author in authors if author.active][:4]
    await synced.drift()
    deleted = await deleter.delete_newest()
    await asker.drift()
    revised = await reviser.revise_newest()
    await _skip(observer)
    return Missed(synced, deleted, asker, reviser, revised)


async def _skip(observer: Observer) -> None:
    """Let the cursor say that everything so far has come."""
    relay, topics = observer.network.endpoints.firehose, observer.topics
    cursor = await read_cursor(observer.client, topics, relay)
    if cursor is None:
        raise Fatal("there is no cursor yet")
    seq = await observer.network.newest_seq()
    moved = replace(cursor, seq=seq, time=None, as_of=time.time())
    async with await Writer.open(observer.client) as writer:
        name = topics.name(Topic.CURSOR)
        await writer.write(OutRecord(name, 0, relay.encode(), moved.encode()))


async def repair(observer: Observer, drift: Missed) -> list[str]:
    """Ask for one half of the repair by commands; return them as they were sent."""
    commands = [
        {"type": "didSync", "did": drift.synced.did, "emit": "all"},
        {"type": "recordRefresh", "uri": drift.deleted.uri},
    ]
    return [await command(observer, **fields) for fields in commands]


async def call(gateway: Gateway, drift: Missed) -> list[str]:
    """Ask for the other half over HTTP; return the calls and their answers."""
    asker, uri = drift.asker, drift.revised.uri
    operation = await gateway.sync(asker, asker.did)
    answer = await gateway.refresh(drift.reviser, uri)
    return [
        f"{TRIGGER_DID_SYNC} {asker.did} -> operation {operation}",
        f"{REFRESH_RECORD} {uri} -> {orjson.dumps(answer).decode()}",
    ]


async def command(observer: Observer, **fields: str) -> str:
    """Produce a command, a bare line of JSON without a key, and return it."""
    line = orjson.dumps(fields)
    async with await Writer.open(observer.client) as writer:
        await writer.write(OutRecord(observer.topics.name(Topic.CONTROL), 0, None, line))
    return line.decode()


async def all_repaired(observer: Observer, asked: int = 0) -> bool:
    """Wait until ``asked`` operations were asked for and none is open, for a while.

    Returns whether it came to that, and all that was asked for has completed.
    """
    give_up = time.monotonic() + _DEADLINE
    while time.monotonic() < give_up:
        async with observer.database.transaction() as connection:
            counts = await read.by_status(connection)
            row = await (await connection.execute(_COMMANDS)).fetchone()
        taken, completed = row or (0, 0)
        if taken >= asked and not any(counts.get(status) for status in _OPEN):
            return bool(taken == completed)
        await asyncio.sleep(_POLL)
    return False
