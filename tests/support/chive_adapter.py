"""The adapter to Chive's indexer as a process, what it has delivered, and what it should have."""

from __future__ import annotations

import asyncio
import json
import os
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from consumer.kafka.reader import Record
from tests.support import npm
from tests.support.eventful import Topics
from tests.support.redis import Redis

FOLDER = Path(__file__).parents[2] / "examples" / "chive-adapter"
_QUEUE = "bull:firehose-events"
_SNAPSHOT = f"""
local jobs = {{}}
for _, id in ipairs(redis.call('LRANGE', '{_QUEUE}:wait', 0, -1)) do
    table.insert(jobs, id)
    table.insert(jobs, redis.call('HGET', '{_QUEUE}:' .. id, 'name'))
    table.insert(jobs, redis.call('HGET', '{_QUEUE}:' .. id, 'data'))
end
return jobs
"""

Event = dict[str, Any]
Offsets = dict[int, int]


@dataclass(frozen=True, slots=True)
class Due:
    """An event that must be delivered, unless it is ``known``: a tombstone after its delete."""

    partition: int
    id: str
    event: Event
    known: bool


@dataclass
class Adapter:
    """The program, built, between a topic and a target; it has a consumer group of its own."""

    program: Path
    topics: Topics
    target: str
    depth: int = 1_000_000
    group: str = field(default_factory=lambda: f"chive-{token_hex(4)}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Process]:
        """Run it during the block, and kill it."""
        process = await asyncio.create_subprocess_exec(
            *("node", str(self.program), self.topics.servers, self.topics.events, self.target),
            env={"PATH": os.environ["PATH"], "GROUP": self.group, "DEPTH": str(self.depth)},
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def offsets(self) -> Offsets:
        """Return the next offset of each partition that it has written."""
        async with self.topics.harness.client.admin() as admin:
            written = await admin.list_consumer_group_offsets(self.group)
        return {place.partition: max(each.offset, 0) for place, each in written.items()}


async def built() -> Path:
    """Return the program; its own tests have passed."""
    place = await npm.installed(FOLDER, ["npm", "run", "build"], ["npm", "test"])
    return place / "adapter.js"


async def jobs(redis: Redis) -> list[tuple[str, Event]]:
    """Return the jobs that wait in the queue, the oldest first: id, and event."""
    found = await redis.call("EVAL", _SNAPSHOT, 0)
    waiting = list(zip(found[::3], found[1::3], found[2::3], strict=True))
    assert {name for _, name, _ in waiting} <= {b"process"}
    return [(number.decode(), _event(data)) for number, _, data in reversed(waiting)]


async def take(redis: Redis) -> list[tuple[str, Event]]:
    """Take the jobs out of the queue that wait in it, as a worker does."""
    found = await jobs(redis)
    await redis.call("LTRIM", f"{_QUEUE}:wait", 0, -1 - len(found))
    return found


def _event(data: bytes) -> Event:
    job = json.loads(data)
    assert job.keys() == {"event", "attempt"}
    assert job["attempt"] == 0
    event: Event = job["event"]
    return event


def due(records: Iterable[Record], group: str) -> dict[tuple[str, int], Due]:
    """Return what the records of the topic, in order, must lead to, by AT-URI and offset."""
    found = {}
    gone: set[str] = set()
    for record in records:
        key = (record.key or b"").decode()
        if not key.startswith("at://"):
            continue
        if record.value is None:
            number = f"{record.partition}-{record.offset}-{record.timestamp}"
            event = _of_tombstone(key, record)
        else:
            value = json.loads(record.value, parse_int=lambda digits: int(float(digits)))
            number, event = value["id"], _of_event(value, record)
        known = record.value is None and key in gone
        found[key, record.offset] = Due(record.partition, f"{group}-{number}", event, known)
        (gone.add if event["action"] == "delete" else gone.discard)(key)
    return found


def _of_event(event: Event, record: Record) -> Event:
    same = "seq", "time", "action", "collection", "rkey", "rev", "live"
    unless_null = {"cid": "cid", "record": "record", "recordCbor": "recordCbor", "pdsUrl": "pds"}
    return {
        "$type": "commit",
        "repo": event["did"],
        "offset": record.offset,
        **{name: event[name] for name in same},
        **{name: event[ours] for name, ours in unless_null.items() if event.get(ours) is not None},
    }


def _of_tombstone(key: str, record: Record) -> Event:
    repo, collection, rkey = key.removeprefix("at://").split("/")
    moment = datetime.fromtimestamp(record.timestamp / 1000, UTC).isoformat(timespec="milliseconds")
    rev = dict(record.headers).get("rev")
    return {
        "$type": "commit",
        "seq": 0,
        "repo": repo,
        "time": moment.replace("+00:00", "Z"),
        "action": "delete",
        "collection": collection,
        "rkey": rkey,
        "offset": record.offset,
        **({} if rev is None else {"rev": rev.decode()}),
    }


def place(event: Event) -> tuple[str, int]:
    """Return where an event came from: AT-URI and offset."""
    return f"at://{event['repo']}/{event['collection']}/{event['rkey']}", event["offset"]


def agree(
    delivered: list[tuple[str, Event]], wanted: Mapping[tuple[str, int], Due], offsets: Offsets
) -> None:
    """Hold what was delivered, in its order, against what was due below ``offsets``."""
    places = [place(event) for _, event in delivered]
    for one, where in zip(delivered, places, strict=True):
        assert one == (wanted[where].id, wanted[where].event)
    assert len(set(places)) == len(places)
    newest: dict[str, int] = {}
    for uri, offset in places:
        assert newest.get(uri, -1) < offset, f"{uri} out of order"
        newest[uri] = offset
    missing = {
        where
        for where, one in wanted.items()
        if where[1] < offsets.get(one.partition, 0) and not one.known
    }.difference(places)
    assert not missing


def reaches(offsets: Offsets, records: Iterable[Record]) -> bool:
    """Whether ``offsets`` lie behind all records."""
    ends = {record.partition: record.offset + 1 for record in records}
    return all(offsets.get(partition, 0) >= end for partition, end in ends.items())
