"""``consumer events``: reading ``chive.events`` for people.

Lines are free of control characters, whatever the authors of records wrote.  Tombstones are
skipped (the delete event before one says the same), unless records are asked for as they are.
Only committed events are shown.  Of several topics of events the records are read; what goes to
all of them is shown once.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
import orjson

from consumer import metrics
from consumer.cli.event_stream import Span, places_of, records
from consumer.cli.moments import moment
from consumer.cli.options import briefly, validated, with_settings
from consumer.config.settings import Settings
from consumer.config.types import did, pattern
from consumer.errors import Fatal
from consumer.kafka.client import Client
from consumer.kafka.reader import Record
from consumer.kafka.topics import Topics
from consumer.printable import escape, escape_json
from consumer.runtime import lifecycle
from consumer.runtime.tasks import unless_stopped
from consumer.scope import Scope
from consumer.services import attached, kafka_of, scope_of

_SHORT = 8
PROGRESS = "progress"
_TYPES = (*metrics.EVENT_TYPES, PROGRESS, "snapshot_complete")

Event = dict[str, Any]


def _readable(event: Event, _record: Record) -> str:
    return line(event)


def _as_published(_event: Event, record: Record) -> str:
    return escape_json((record.value or b"null").decode())


def as_record(_event: Event, record: Record) -> str:
    """Return a record of Kafka as one line of JSON; its value stands there as it was published."""
    appended = datetime.fromtimestamp(record.timestamp / 1000, UTC)
    whole = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": appended.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "key": None if record.key is None else _text(record.key),
        "headers": {name: _text(value) for name, value in record.headers},
        "value": None if record.value is None else orjson.Fragment(record.value),
    }
    return escape_json(orjson.dumps(whole).decode())


def _text(data: bytes) -> str:
    """Return ``data`` as text; bytes that are no UTF-8 are written as escapes."""
    return data.decode(errors="backslashreplace")


_FORMS: dict[str | None, Callable[[Event, Record], str]] = {
    None: _readable,
    "json": _as_published,
    "records": as_record,
}


@click.command("events")
@with_settings
@click.option("--follow", "-f", "follows", is_flag=True, help="What comes, until Ctrl-C.")
@click.option(
    "--from-beginning",
    "--from-start",
    "from_beginning",
    is_flag=True,
    help="Everything that is kept, then what comes.",
)
@click.option("--since", metavar="TIME", help="Only what was appended then or later.")
@click.option("--until", metavar="TIME", help="Only what was appended before, and then end.")
@click.option("--limit", type=click.IntRange(min=1), help="End after this number of events.")
@click.option("--did", "dids", multiple=True, callback=validated(did), help="Only this repo.")
@click.option(
    "--collection",
    "collections",
    multiple=True,
    callback=validated(pattern),
    help="Only records of this collection, or pattern such as 'pub.chive.*'.",
)
@click.option("--type", "types", type=click.Choice(_TYPES), multiple=True)
@click.option("--topic", metavar="NAME", help="Only this one of several topics of events.")
@click.option("--json", "form", flag_value="json", help="The events as published, one a line.")
@click.option(
    "--records",
    "form",
    flag_value="records",
    help="Records as JSON, one a line: key, headers, value; tombstones too.",
)
def events_command(
    settings: Settings,
    *,
    dids: tuple[str, ...],
    collections: tuple[str, ...],
    types: tuple[str, ...],
    follows: bool,
    from_beginning: bool,
    since: str | None,
    until: str | None,
    limit: int | None,
    topic: str | None,
    form: str | None,
) -> None:
    """Show the events that are kept, or those to come.

    Alone it shows what is kept, and ends. With --follow or --from-beginning it goes on, unless
    --until or --limit ends it.

    TIME is ISO 8601, in UTC unless it names a zone (2026-07-04, 2026-07-04T14:30+02:00), how long
    ago (90s, 15m, 2h, 7d), or 'now'. It is when Kafka took the events, not when they happened.
    """
    span = span_of(time.time(), follows, from_beginning, since, until)
    for elsewhere in filter(None, map(scope_of(settings).shard.elsewhere, dids)):
        raise click.UsageError(elsewhere)
    settings = attached(briefly(settings))
    wanted = Filter.of(dids, collections, types)
    client, topics = kafka_of(settings)
    shown = _FORMS[form]

    async def show() -> None:
        left = limit
        found = events(client, topics, wanted, span, topic=topic, tombstones=form == "records")
        async with aclosing(found):
            async for event, record in found:
                sys.stdout.write(f"{shown(event, record)}\n")
                sys.stdout.flush()
                left = None if left is None else left - 1
                if left == 0:
                    break

    lifecycle.run(lambda stop: unless_stopped(stop, show()))


def span_of(
    now: float, follows: bool, from_beginning: bool, since: str | None, until: str | None
) -> Span:
    """Return what the options ask for at ``now``, in Unix seconds.

    Raises ``click.UsageError`` if they contradict each other.
    """
    begin = _time("--since", since, now)
    end = _time("--until", until, now)
    if from_beginning and begin is not None:
        raise click.UsageError("--from-beginning and --since exclude each other")
    if begin is not None and begin > now:
        raise click.UsageError("--since lies in the future; --follow shows what comes")
    if begin is not None and end is not None and end <= begin:
        raise click.UsageError("--until is not after --since")
    if begin is None:
        begin = math.inf if follows and not from_beginning else 0.0
    if begin == math.inf and end is not None and end <= now:
        raise click.UsageError("--follow begins now: --until must lie in the future")
    if until == "now":
        return Span(begin, None)
    if end is None and (follows or from_beginning):
        end = math.inf
    return Span(begin, end)


def _time(option: str, text: str | None, now: float) -> float | None:
    try:
        return None if text is None else moment(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; an empty filter wants all.

    With ``collections`` only events of records remain.  The progress of lanes is shown only where
    ``types`` name it.
    """

    dids: frozenset[str] = frozenset()
    collections: tuple[str, ...] = ()
    types: frozenset[str] = frozenset()
    _scope: Scope | None = None

    @classmethod
    def of(
        cls, dids: Collection[str], collections: Collection[str], types: Collection[str]
    ) -> Filter:
        """Make a filter of DIDs, collection patterns and event types."""
        patterns = tuple(collections)
        scope = Scope(patterns) if patterns else None
        return cls(frozenset(dids), patterns, frozenset(types), scope)

    def wants(self, event: Event) -> bool:
        """Tell whether ``event`` passes."""
        if event.get("type") == PROGRESS and PROGRESS not in self.types:
            return False
        if self.dids and event.get("did") not in self.dids:
            return False
        if self.types and event.get("type") not in self.types:
            return False
        return self._scope is None or (
            event.get("type") == "record" and self._scope.wants(f"{event.get('collection')}/")
        )


def line(event: Event) -> str:
    """Return the event as one readable line without control characters."""
    clock = str(event.get("time", ""))[:19].replace("T", " ")
    kind = str(event.get("type", "?"))
    if "lane" in event:
        return escape(f"{clock}  {kind.ljust(_SHORT)}  {_lane(event)}")
    parts = [clock, kind.ljust(_SHORT), _what(event).ljust(_SHORT), str(event.get("did", "?"))]
    if kind == "record":
        parts.append(f"{event.get('collection')}/{event.get('rkey')}")
    parts += [f"{key}={event[key]}" for key in ("reason", "handle", "rev") if event.get(key)]
    if not event.get("live"):
        parts.append(f"source={event.get('source')}")
    return escape("  ".join(parts))


def _lane(event: Event) -> str:
    """Return what a lane says of itself."""
    hidden = ("v", "type", "id", "time")
    return "  ".join(f"{key}={value}" for key, value in event.items() if key not in hidden)


def _what(event: Event) -> str:
    match event.get("type"):
        case "record":
            return str(event.get("action"))
        case "account":
            return str(event.get("status"))
        case "sync":
            return str(event.get("state"))
        case _:
            return "changed"


async def events(
    client: Client,
    topics: Topics,
    wanted: Filter,
    span: Span,
    *,
    topic: str | None = None,
    tombstones: bool = False,
) -> AsyncGenerator[tuple[Event, Record], None]:
    """Yield wanted events within ``span`` with their records, in the order of each partition.

    Of all topics of events what goes to each of them comes once; of one ``topic``, by its name
    with or without the prefix, all that it holds.  ``tombstones`` come, too, as events that have
    no more than what their keys say.  Raises ``Transient`` or ``Fatal``.
    """
    names = _names(topics, topic)
    places = await places_of(client, topics, names, wanted.dids)
    async with aclosing(records(client, places, span)) as found:
        async for record in found:
            if record.value is None and not tombstones:
                continue
            event = _buried(record) if record.value is None else _parsed(record.value)
            told_once = record.topic == names[0] or event.get("type") == "record"
            if told_once and wanted.wants(event):
                yield event, record


def _names(topics: Topics, topic: str | None) -> tuple[str, ...]:
    if topic is None:
        return topics.event_topics
    for name in topics.event_topics:
        if topic in (name, name.removeprefix(topics.prefix)):
            return (name,)
    there_are = ", ".join(topics.event_topics)
    raise Fatal(f"{topic} is no topic of events; there are {there_are}")


def _buried(record: Record) -> Event:
    """Return what the key of a tombstone says of the record that is gone."""
    did, _, path = _text(record.key or b"").removeprefix("at://").partition("/")
    collection, _, rkey = path.partition("/")
    return {"type": "record", "did": did, "collection": collection, "rkey": rkey}


def _parsed(value: bytes) -> Event:
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Fatal(f"an event is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise Fatal("an event is not a JSON object")
    return event
