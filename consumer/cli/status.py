"""``consumer status``: what an operator asks first: how far we are, how late, and what waits.

It looks at Postgres and Kafka and changes neither.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import click
import uvloop
from rich.console import Console

from consumer.cli.options import briefly, with_settings
from consumer.cli.output import print_json
from consumer.cli.report import NOTHING, Report, Waiting, render, report
from consumer.config.settings import Settings
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.stable import OpenTransaction, left_open, places_of
from consumer.kafka.topics import Topic
from consumer.services import Services, answering, attached, read_only
from consumer.store import status as store
from consumer.store.rows import Lane

_LOOK_SECONDS = 5.0
_ROUND_SECONDS = 0.25


@click.command("status")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="JSON instead of tables.")
def status_command(settings: Settings, *, as_json: bool) -> None:
    """Show positions, lag, repos by state and what waits."""
    settings = attached(briefly(settings))

    async def ask() -> Report:
        async with read_only(settings) as found:
            return await read(found)

    seen = uvloop.run(ask())
    if as_json:
        print_json(seen)
    else:
        render(seen, Console(soft_wrap=True, highlight=False))


async def read(services: Services, now: float | None = None) -> Report:
    """Return the report as plain values.  Raises ``Transient`` or ``Fatal``."""
    settings, database = services.settings, services.database
    asked = f"PostgreSQL at {database.address}"
    async with answering(settings, asked), database.transaction() as connection:
        found = await store.read(connection)
    async with answering(settings, f"Kafka at {settings.kafka.bootstrap_servers}"):
        places = places_of(services.topics) if found.lanes else []
        held = await left_open(services.client, places)
        waiting = await _waiting(services, found.lanes, held)
    now = time.time() if now is None else now
    return report(found, waiting, now, services.settings.relay.relays, held)


async def _waiting(
    services: Services, known: list[Lane], held: Sequence[OpenTransaction]
) -> dict[tuple[Topic, int], Waiting]:
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
    for each in held:
        if each.place in positions:
            before = found.get(each.place, NOTHING)
            since = each.since if before.since is None else min(before.since, each.since)
            found[each.place] = Waiting(before.offsets + each.waiting, since)
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
