"""The status report: tables and waiting messages combined, and shown to people.

A lane's lag is the age of the oldest message that waits in it, 0 when none waits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.kafka.topics import Topic
from consumer.printable import escape
from consumer.store import status as store
from consumer.store.rows import RELEASED, Lane

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What of a partition has not been taken: how many offsets, and since when (Unix seconds)."""

    offsets: int = 0
    since: float | None = None


NOTHING = Waiting()


def report(
    found: store.Status,
    waiting: Mapping[tuple[Topic, int], Waiting],
    now: float,
) -> Report:
    """Combine what the tables say with what waits in Kafka."""
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
