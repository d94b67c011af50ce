"""The status report: tables and waiting messages combined, and shown to people.

A lane's lag is the age of the oldest message that waits in it.  If none waits it is 0 while the
tailer is connected to the relay, and unknown (null) while it is not: what would be late is then
still with the relay.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from consumer.kafka.stable import OpenTransaction
from consumer.kafka.topics import Topic
from consumer.printable import escape
from consumer.shard import WHOLE
from consumer.state.discovery import Search, SearchState
from consumer.state.sweep import Finding, Way
from consumer.store import status as store
from consumer.store.rows import NOBODY, Lane
from consumer.store.sweep import Progress

_QUERY = re.compile(r"\?\S+")  # of a URL in an error: it names the listing
Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """What of a partition has not been taken: how many offsets, and since when (Unix seconds)."""

    offsets: int = 0
    since: float | None = None


NOTHING = Waiting()
ROUTES_CHANGED = (
    "records that were published before are in the topics of then; run 'consumer sync --all "
    "--emit-all' (docs/consumers.md, 'Routing')"
)


def report(
    found: store.Status,
    waiting: Mapping[tuple[Topic, int], Waiting],
    now: float,
    relays: Collection[str] = (),
    held: Collection[OpenTransaction] = (),
) -> Report:
    """Combine what the tables say with what waits in Kafka.

    ``now`` is in Unix seconds, ``relays`` are those of the settings: the cursor of another one
    that is not read either was ``left``.  ``held``: transactions that were left open.
    """
    relay = _relay(found.relays, now)
    connected = relay is not None and relay["connected"]
    lanes_ = [_lane(lane, found, waiting, now, connected=connected) for lane in found.lanes]
    lags = [lane["lagSeconds"] for lane in lanes_ if lane["lagSeconds"] is not None]
    states: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    statuses: Counter[str] = Counter()
    for (status, state, reason), count in found.repos.items():
        statuses[status] += count
        states[state] += count
        if state != "active":
            reasons[reason or "unknown"] += count
    return {
        "relay": relay,
        "cursors": [
            _cursor(cursor, now, left=cursor.relay not in {*relays, relay and relay["url"]})
            for cursor in found.cursors
        ],
        "lagSeconds": max(lags, default=0.0 if connected else None),
        "shard": found.shard,
        "repos": {
            "total": sum(found.repos.values()),
            "byState": dict(states),
            "byStatus": dict(statuses),
            "desynchronizedBy": dict(reasons),
        },
        "records": found.records,
        "estimated": sorted(found.estimated),
        "parked": found.parked,
        "lookups": found.lookups,
        "operations": dict(found.operations),
        "outbox": sum(found.outbox.values()),
        "routesChangedAt": _iso(found.routes_changed),
        "heldDeletions": [
            {"host": one.host, "gone": one.gone, "tracked": one.tracked} for one in found.held
        ],
        "discovery": _discovery(found),
        "sweep": _sweep(found.sweep, now),
        "openTransactions": [
            {
                "topic": each.place.topic,
                "partition": each.place.partition,
                "offset": each.offset,
                "waiting": each.waiting,
                "seconds": round(max(0.0, now - each.since), 3),
            }
            for each in held
        ],
        "lanes": lanes_,
    }


def _discovery(found: store.Status) -> Report:
    """Return how far each listing was read at each source; hosts of a relay in one line."""
    own = [each for each in found.searches if each.named_by is None]
    hosts = [each for each in found.searches if each.named_by is not None]
    by_listing: dict[str, list[Search]] = {}
    for each in own:
        by_listing.setdefault(each.listing, []).append(each)
    remembered, syncing, failed = found.found
    return {
        "listings": len(by_listing),
        "read": sum(
            any(each.state is SearchState.COMPLETED for each in searches)
            for searches in by_listing.values()
        ),
        "searches": [
            {
                "listing": each.listing,
                "source": each.source,
                "state": each.state.value,
                "pages": each.pages,
                "found": each.found,
                "failed": each.failed,
                "detail": each.detail or None,
            }
            for each in own
        ],
        "hosts": {
            "total": len(hosts),
            "byState": dict(Counter(each.state.value for each in hosts)),
            "pages": sum(each.pages for each in hosts),
            "found": sum(each.found for each in hosts),
            "failed": sum(each.failed for each in hosts),
        },
        "remembered": remembered,
        "syncing": syncing,
        "failedBefore": failed,
    }


def _sweep(found: Progress | None, now: float) -> Report | None:
    """Return how far the comparison with the hosts is, None before the first round."""
    if found is None:
        return None
    walk = found.walk
    return {
        "way": walk.way.value,
        "beganAt": datetime.fromtimestamp(walk.began_at, UTC).isoformat(),
        "seconds": round(max(0.0, now - walk.began_at), 3),
        "ended": walk.ended,
        "tracked": walk.total,
        "taken": walk.taken,
        "findings": dict(found.counts),
        "findingsBefore": dict(found.before),
        "maybeBehind": found.later.get(None, 0),
        "unasked": {name: count for name, count in found.later.items() if name is not None},
    }


def _relay(relays: Sequence[store.RelayConnection], now: float) -> Report | None:
    """Return the state of the connection that was reported last; None: none ever was."""
    last = store.last_reported(relays, now)
    if last is None:
        return None
    return {
        "url": last.relay,
        "connected": last.connected,
        "since": _iso(last.since),
        "seconds": _age(last.since, now),
        "reason": None if last.connected else last.reason,
    }


def _cursor(cursor: store.Cursor, now: float, *, left: bool) -> Report:
    return {
        "relay": cursor.relay,
        "seq": cursor.seq,
        "session": cursor.epoch,
        "time": _iso(cursor.time),
        "ageSeconds": _age(cursor.time, now),
        "updatedAt": _iso(cursor.updated_at),
        "left": left,
    }


def _lane(
    lane: Lane,
    found: store.Status,
    waiting: Mapping[tuple[Topic, int], Waiting],
    now: float,
    *,
    connected: bool,
) -> Report:
    live = waiting.get((Topic.FIREHOSE, lane.lane), NOTHING)
    backfill = waiting.get((Topic.BACKFILL, lane.lane), NOTHING)
    lag = 0.0 if connected else None
    if live.since is not None:
        lag = round(max(0.0, now - live.since), 3)
    return {
        "lane": lane.lane,
        "owned": lane.token not in NOBODY,
        "firehoseOffset": lane.firehose_offset,
        "firehoseWaiting": live.offsets,
        "backfillOffset": lane.backfill_offset,
        "backfillWaiting": backfill.offsets,
        "lagSeconds": lag,
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
    if seen["discovery"]["searches"]:
        console.print(_listings(seen["discovery"]))
    if seen["lanes"]:
        console.print(_lanes(seen["lanes"]))


def _plain(text: str) -> Text:
    """Return text that strangers had a part in as itself: no control characters, no markup."""
    return Text(escape(text))


def _connection(relay: Report | None) -> str:
    if relay is None:
        return "not connected: no tailer has reported yet; is the role tailer running?"
    since = f"since {relay['since'][:19].replace('T', ' ')} UTC ({relay['seconds']:,.0f} s)"
    if relay["connected"]:
        return f"connected to {relay['url']} {since}"
    return f"NOT CONNECTED to {relay['url']} {since}: {relay['reason']}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())) or "none"


def _position(cursor: Report) -> str:
    position = f"seq {cursor['seq']} of epoch {cursor['session']}"
    if cursor["ageSeconds"] is not None:
        position += f", {cursor['ageSeconds']:,.1f} s old"
    return f"{position}, left: no longer read" if cursor["left"] else position


def _summary(seen: Report) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for word, text in _of_deployment(seen):
        table.add_row(word, _plain(text))
    repos = seen["repos"]
    lag = seen["lagSeconds"]
    table.add_row("lag", "unknown: not connected" if lag is None else f"{lag:,.1f} s")
    for word, text in _of_topics(seen):
        table.add_row(word, _plain(text))
    about = dict.fromkeys(seen["estimated"], "about ")
    total = f"{about.get('repos', '')}{repos['total']:,}"
    table.add_row("repos", f"{total}: {_counts(repos['byState'])}")
    if repos["desynchronizedBy"]:
        table.add_row("", f"desynchronized: {_counts(repos['desynchronizedBy'])}")
    if set(repos["byStatus"]) - {"active"}:
        table.add_row("accounts", _plain(_counts(repos["byStatus"])))
    for one in seen["heldDeletions"]:
        text = (
            f"{one['host']} says that {one['gone']:,} of {one['tracked']:,} accounts are gone; "
            "if it is true, run for each of them: consumer sync DID"
        )
        table.add_row("DELETIONS WAIT", _plain(text))
    table.add_row("records", f"{about.get('records', '')}{seen['records']:,}")
    table.add_row("operations", f"{about.get('operations', '')}{_counts(seen['operations'])}")
    table.add_row("waiting", f"{seen['parked']:,} parked frames, {seen['lookups']:,} lookups")
    table.add_row("outbox", f"{seen['outbox']:,} rows")
    discovery = seen["discovery"]
    if discovery["listings"] or discovery["remembered"]:
        table.add_row("discovery", _progress(discovery))
    if seen["sweep"] is not None:
        table.add_row("sweep", _compared(seen["sweep"]))
    if hosts := discovery["hosts"]["byState"]:
        table.add_row("hosts", f"{discovery['hosts']['found']:,} listed; {_counts(hosts)}")
    return table


def _of_deployment(seen: Report) -> Iterator[tuple[str, str]]:
    """Yield what is read and how far, and of which accounts if not of all."""
    if seen["shard"] != str(WHOLE):
        yield "shard", f"{seen['shard']} of all accounts"
    yield "relay", _connection(seen["relay"])
    for cursor in seen["cursors"]:
        yield "cursor", f"{cursor['relay']}: {_position(cursor)}"
    if not seen["cursors"]:
        yield "cursor", "none yet"


def _of_topics(seen: Report) -> Iterator[tuple[str, str]]:
    """Yield what keeps readers from all that they should find."""
    for each in seen["openTransactions"]:
        text = (
            f"a transaction on {each['topic']}-{each['partition']} has been open for "
            f"{each['seconds']:,.0f} s: {each['waiting']:,} offsets cannot be read until it ends"
        )
        yield "HELD BACK", text
    if seen["routesChangedAt"] is not None:
        yield "ROUTES CHANGED", f"at {seen['routesChangedAt']}: {ROUTES_CHANGED}"


def _progress(discovery: Report) -> str:
    read, listings = discovery["read"], discovery["listings"]
    waiting, failed = discovery["remembered"], discovery["failedBefore"]
    return (
        f"{read:,} of {listings:,} listings read; of the repositories found {waiting:,} are not "
        f"synced yet, {failed:,} of them failed before"
    )


def _compared(sweep: Report) -> str:
    if sweep["way"] == Way.LISTING:
        return f"{sweep['tracked']:,} repositories are compared with the relay's listing"
    text = f"{sweep['taken']:,} of {sweep['tracked']:,} repositories compared with their hosts"
    if behind := sweep["findings"].get(Finding.BEHIND):
        text += f"; {behind:,} were behind and are synced"
    if newer := sweep["maybeBehind"]:
        text += f"; {newer:,} may be behind"
    if unasked := sweep["unasked"]:
        text += f"; could not ask about {sum(unasked.values()):,}: {_counts(unasked)}"
    return text


def _listings(discovery: Report) -> Table:
    """Return a row for each search, and one for all that have read no page for the same reason."""
    table = Table(box=None, pad_edge=False)
    for name in ("searches", "listing", "source", "state", "pages", "found", "failed", "detail"):
        table.add_column(name, justify="right" if name in ("pages", "found", "failed") else "left")
    groups: dict[tuple[str, str, str, str | None], list[Report]] = {}
    for row in discovery["searches"]:
        own = row["listing"] if row["pages"] else None
        detail = _QUERY.sub("", row["detail"] or "")
        groups.setdefault((row["source"], row["state"], detail, own), []).append(row)
    for (_, _, detail, _), rows in groups.items():
        first, more = rows[0], len(rows) - 1
        table.add_row(
            f"{len(rows)} of {len(discovery['searches'])}",
            _plain(first["listing"] + (f" and {more} more" if more else "")),
            _plain(first["source"]),
            first["state"],
            f"{sum(row['pages'] for row in rows):,}",
            f"{sum(row['found'] for row in rows):,}",
            f"{sum(row['failed'] for row in rows):,}",
            _plain(detail),
        )
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
            "-" if row["lagSeconds"] is None else f"{row['lagSeconds']:,.1f}",
            f"{row['outbox']:,}",
        )
    return table
