"""``consumer events``: reading ``chive.events`` for people.

Lines are free of control characters, whatever the authors of records wrote.  Tombstones are
skipped (the delete event before one says the same).  Only committed events are shown.  Of several
topics of events the records are read; what goes to all of them is shown once.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import click
import orjson

from consumer import metrics
from consumer.cli.options import briefly, validated, with_settings
from consumer.config.settings import Settings
from consumer.config.types import did, pattern
from consumer.errors import Fatal
from consumer.kafka.client import Client, deadline
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.topics import Topic, Topics
from consumer.printable import escape, escape_json
from consumer.runtime import lifecycle
from consumer.runtime.tasks import unless_stopped
from consumer.scope import Scope
from consumer.services import attached, kafka_of

_WAIT_SECONDS = 0.5
_SHORT = 8
PROGRESS = "progress"
_TYPES = (*metrics.EVENT_TYPES, PROGRESS, "snapshot_complete")


@click.command("events")
@with_settings
@click.option("--follow", "-f", "follows", is_flag=True, help="Wait for more, until Ctrl-C.")
@click.option("--from-start", is_flag=True, help="With --follow: first everything that is kept.")
@click.option("--did", "dids", multiple=True, callback=validated(did), help="Only this repo.")
@click.option(
    "--collection",
    "collections",
    multiple=True,
    callback=validated(pattern),
    help="Only records of this collection, or pattern such as 'pub.chive.*'.",
)
@click.option("--type", "types", type=click.Choice(_TYPES), multiple=True)
@click.option("--json", "as_json", is_flag=True, help="The events as published, one a line.")
def events_command(
    settings: Settings,
    *,
    dids: tuple[str, ...],
    collections: tuple[str, ...],
    types: tuple[str, ...],
    follows: bool,
    from_start: bool,
    as_json: bool,
) -> None:
    """Show the events that are kept, or those to come."""
    settings = attached(briefly(settings))
    wanted = Filter.of(dids, collections, types)
    client, topics = kafka_of(settings)

    async def show() -> None:
        found = events(client, topics, wanted, from_start=from_start or not follows, follow=follows)
        async with aclosing(found):
            async for event, value in found:
                text = escape_json(value.decode()) if as_json else line(event)
                sys.stdout.write(f"{text}\n")
                sys.stdout.flush()

    lifecycle.run(lambda stop: unless_stopped(stop, show()))


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

    def wants(self, event: dict[str, Any]) -> bool:
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


def line(event: dict[str, Any]) -> str:
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


def _lane(event: dict[str, Any]) -> str:
    """Return what a lane says of itself."""
    hidden = ("v", "type", "id", "time")
    return "  ".join(f"{key}={value}" for key, value in event.items() if key not in hidden)


def _what(event: dict[str, Any]) -> str:
    match event.get("type"):
        case "record":
            return str(event.get("action"))
        case "account":
            return str(event.get("status"))
        case "sync":
            return str(event.get("state"))
        case _:
            return "changed"


async def _places(client: Client, topics: Topics, dids: Collection[str]) -> list[TopicPartition]:
    """Return the partitions to read.  Raises ``Fatal`` if the topic is not there."""
    async with client.admin() as admin, deadline(client.timeout, "asking for topics"):
        found = {t["topic"]: len(t["partitions"]) for t in await admin.describe_topics()}
    for name in topics.event_topics:
        if name not in found:
            raise Fatal(f"there is no topic {name} yet: nothing has run with this prefix")
        if found[name] != topics.partitions:
            raise Fatal(
                f"topic {name} has {found[name]} partitions, "
                f"kafka.partitions says {topics.partitions}"
            )
    wanted = {topics.partition_of(did) for did in dids} or set(range(topics.partitions))
    return [
        TopicPartition(name, partition)
        for name in topics.event_topics
        for partition in sorted(wanted)
    ]


async def events(
    client: Client, topics: Topics, wanted: Filter, *, from_start: bool, follow: bool
) -> AsyncGenerator[tuple[dict[str, Any], bytes], None]:
    """Yield wanted events, parsed and as published, in the order of each partition.

    From the oldest kept one (``from_start``) or from the end; until stopped (``follow``) or up to
    the end as it was found.  Raises ``Transient`` or ``Fatal``.
    """
    places = await _places(client, topics, wanted.dids)
    main = topics.name(Topic.EVENTS)
    async with await PartitionReader.open(client, dict.fromkeys(places)) as reader:
        bounds = await reader.bounds()
        if not from_start:
            for place in places:
                reader.seek(place, bounds[place][1])
        ends = {place: bounds[place][1] for place in places}
        while follow or await reader.is_short_of(ends):
            for record in await reader.fetch(wait=_WAIT_SECONDS):
                if record.value is not None:
                    event = _parsed(record.value)
                    told_once = record.topic == main or event.get("type") == "record"
                    if told_once and wanted.wants(event):
                        yield event, record.value


def _parsed(value: bytes) -> dict[str, Any]:
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Fatal(f"an event is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise Fatal("an event is not a JSON object")
    return event
