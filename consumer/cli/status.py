"""What an operator asks first: how far we are, how late, and what waits.

``read`` looks at Postgres and Kafka and changes neither; ``render`` shows the report to people.
A lane's lag is the age of the oldest message that waits in it, 0 when none does.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic
from consumer.runtime.logs import escape
from consumer.runtime.services import Services
from consumer.store import status as store
from consumer.store.rows import RELEASED, Lane

Report = dict[str, Any]

_LOOK_SECONDS = 5.0
_ROUND_SECONDS = 0.25


async def read(services: Services, now: float | None = None) -> Report:
    """Return the report as plain values.  Raises ``Transient`` or ``Fatal``."""
    async with services.database.transaction() as connection:
        found = await store.read(connection)
    waiting = await _waiting(services, found.lanes)
    return report(found, waiting, time.time() if now is None else now)


@dataclass(frozen=True, slots=True)
class Waiting:
    """What of a partition has not been taken: how many offsets, and since when (Unix seconds)."""

    offsets: int = 0
    since: float | None = None


NOTHING = Waiting()


async def _waiting(services: Services, known: list[Lane]) -> dict[tuple[Topic, int], Waiting]:
    names = {topic: services.topics.name(topic) for topic in (Topic.FIREHOSE, Topic.BACKFILL)}
    positions = {}
    for lane in known:
        if lane.lane < services.topics.partitions:
            positions[TopicPartition(names[Topic.FIREHOSE], lane.lane)] = lane.firehose_offset
            positions[TopicPartition(names[Topic.BACKFILL], lane.lane)] = lane.backfill_offset
    if not positions:
        return {}
    async with await PartitionReader.open(services.client, dict.fromkeys(positions)) as reader:
        found = await _look(reader, positions)
    return {
        (topic, place.partition): waiting
        for place, waiting in found.items()
        for topic, name in names.items()
        if place.topic == name
    }


async def _look(
    reader: PartitionReader, positions: Mapping[TopicPartition, int]
) -> dict[TopicPartition, Waiting]:
    """Look for the first message at each position; markers of transactions are none."""
    bounds = await reader.bounds()
    open_ = set()
    for place, position in positions.items():
        oldest, end = bounds[place]
        reader.seek(place, min(max(position, oldest), end))
        if position < end:
            open_.add(place)
    found: dict[TopicPartition, Waiting] = {}
    give_up = time.monotonic() + _LOOK_SECONDS
    while open_ and time.monotonic() < give_up:
        for record in await reader.fetch(*open_, wait=_ROUND_SECONDS):
            place = TopicPartition(record.topic, record.partition)
            waiting = Waiting(bounds[place][1] - record.offset, record.timestamp / 1000)
            found.setdefault(place, waiting)
        passed = {place for place in open_ if await reader.position(place) >= bounds[place][1]}
        open_ -= found.keys() | passed
    return found


def report(
    found: store.Status,
    waiting: Mapping[tuple[Topic, int], Waiting],
    now: float,
) -> Report:
    """Combine what the tables say with what waits in Kafka.  Pure."""
    lanes_ = [_lane(lane, found, waiting, now) for lane in found.lanes]
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for (status, state, reason), count in found.repos.items():
        statuses[status] += count
        states[state] += count
        if state != "active":
            reasons[reason or "unknown"] += count
    return {
        "cursors": [_cursor(cursor, now) for cursor in found.cursors],
        "lagSeconds": max((lane["lagSeconds"] for lane in lanes_), default=0.0),
        "repos": {
            "total": sum(found.repos.values()),
            "byState": dict(states),
            "byStatus": dict(statuses),
            "desynchronizedBy": dict(reasons),
        },
        "records": found.records,
        "parked": found.parked,
        "lookups": found.lookups,
        "operations": dict(found.operations),
        "outbox": sum(found.outbox.values()),
        "lanes": lanes_,
    }


def _cursor(cursor: store.Cursor, now: float) -> Report:
    return {
        "relay": cursor.relay,
        "seq": cursor.seq,
        "session": cursor.epoch,
        "time": _iso(cursor.time),
        "ageSeconds": _age(cursor.time, now),
        "updatedAt": _iso(cursor.updated_at),
    }


def _lane(
    lane: Lane,
    found: store.Status,
    waiting: Mapping[tuple[Topic, int], Waiting],
    now: float,
) -> Report:
    live = waiting.get((Topic.FIREHOSE, lane.lane), NOTHING)
    backfill = waiting.get((Topic.BACKFILL, lane.lane), NOTHING)
    return {
        "lane": lane.lane,
        "owned": lane.token != RELEASED,
        "firehoseOffset": lane.firehose_offset,
        "firehoseWaiting": live.offsets,
        "backfillOffset": lane.backfill_offset,
        "backfillWaiting": backfill.offsets,
        "lagSeconds": 0.0 if live.since is None else round(max(0.0, now - live.since), 3),
        "lastSeq": lane.last_seq,
        "outbox": found.outbox.get(lane.lane, 0),
        "stalls": lane.stalls,
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _age(moment: datetime | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment.timestamp()), 3)


def render(seen: Report, console: Console) -> None:
    """Print the report for people."""
    console.print(_summary(seen))
    if seen["lanes"]:
        console.print(_lanes(seen["lanes"]))


def _plain(text: str) -> Text:
    """Return text that strangers had a part in as itself: no control characters, no markup."""
    return Text(escape(text))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())) or "none"


def _summary(seen: Report) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for cursor in seen["cursors"]:
        age = cursor["ageSeconds"]
        position = f"seq {cursor['seq']} of epoch {cursor['session']}"
        if age is not None:
            position += f", {age:,.1f} s old"
        table.add_row("cursor", _plain(f"{cursor['relay']}: {position}"))
    if not seen["cursors"]:
        table.add_row("cursor", "none yet")
    repos = seen["repos"]
    table.add_row("lag", f"{seen['lagSeconds']:,.1f} s")
    table.add_row("repos", f"{repos['total']:,}: {_counts(repos['byState'])}")
    if repos["desynchronizedBy"]:
        table.add_row("", f"desynchronized: {_counts(repos['desynchronizedBy'])}")
    if set(repos["byStatus"]) - {"active"}:
        table.add_row("accounts", _plain(_counts(repos["byStatus"])))
    table.add_row("records", f"{seen['records']:,}")
    table.add_row("operations", _counts(seen["operations"]))
    table.add_row("waiting", f"{seen['parked']:,} parked frames, {seen['lookups']:,} lookups")
    table.add_row("outbox", f"{seen['outbox']:,} rows")
    return table


def _lanes(rows: list[Report]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("lane", "owned", "offset", "waiting", "backfill", "waiting", "lag s", "outbox"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row["lane"]),
            "yes" if row["owned"] else "no",
            f"{row['firehoseOffset']:,}",
            f"{row['firehoseWaiting']:,}",
            f"{row['backfillOffset']:,}",
            f"{row['backfillWaiting']:,}",
            f"{row['lagSeconds']:,.1f}",
            f"{row['outbox']:,}",
        )
    return table
