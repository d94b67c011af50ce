"""What a deployment looks like from outside, before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

from consumer.errors import Fatal
from consumer.kafka.client import deadline
from consumer.kafka.reader import PartitionReader, TopicPartition
from consumer.kafka.rights import GROUPS
from consumer.kafka.topics import Topic
from consumer.lanes import marker
from consumer.lanes.marker import NOTHING, Marker
from consumer.services import Services
from consumer.store import deployment, lanes, outbox
from consumer.store.deployment import Deployment

Bounds = tuple[int, int]
"""The oldest kept offset of a partition, and that of the next record."""


@dataclass(frozen=True, slots=True)
class LaneFound:
    """What Kafka says of a lane: what is published, and the bounds of its inputs."""

    lane: int
    published: Marker
    firehose: Bounds
    backfill: int
    control: int
    contradiction: str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """``halted``: why the tables must not be used, as a process noted it.

    ``members``: processes of the deployment that run.  ``events`` and ``operations`` are the
    numbers of records in these topics, at most.
    """

    lanes: tuple[LaneFound, ...]
    halted: str | None
    members: int
    events: int
    operations: int

    @property
    def contradictions(self) -> list[str]:
        """What tables and topics say differently, one sentence for each lane."""
        return [
            f"lane {one.lane} is {one.contradiction}"
            for one in self.lanes
            if one.contradiction is not None
        ]


async def look(services: Services) -> Findings:
    """Compare tables and topics.

    Raises ``Transient``, and ``Fatal`` if they are of different deployments.
    """
    await _same_deployment(services)
    markers = await _markers(services)
    bounds = await _bounds(services)

    def bounds_of(topic: Topic, partition: int) -> Bounds:
        return bounds.get(TopicPartition(services.topics.name(topic), partition), (0, 0))

    def records_in(*names: str) -> int:
        return sum(end - start for place, (start, end) in bounds.items() if place.topic in names)

    found = []
    async with services.database.transaction() as connection:
        for number in range(services.topics.partitions + 1):
            published = markers.get(number, NOTHING)
            row = await lanes.read(connection, number)
            known = await outbox.knowledge(connection, number, published.out_seq)
            decided = row.last_out_seq if row else 0
            found.append(
                LaneFound(
                    number,
                    published,
                    bounds_of(Topic.FIREHOSE, number),
                    bounds_of(Topic.BACKFILL, number)[1],
                    bounds_of(Topic.CONTROL, 0)[1] if number == services.topics.partitions else 0,
                    marker.contradiction(published, decided, known.stamp, known.trimmed),
                )
            )
        halted = await deployment.halted_for(connection)
    return Findings(
        tuple(found),
        halted,
        await _members(services),
        records_in(*services.topics.event_topics),
        records_in(services.topics.name(Topic.OPERATIONS)),
    )


async def _same_deployment(services: Services) -> None:
    kafka, shard = services.settings.kafka, services.settings.scope.shard
    cluster = await services.client.cluster_id()
    mine = Deployment(cluster, kafka.topic_prefix, kafka.partitions, shard)
    async with services.database.transaction() as connection:
        theirs = await deployment.read(connection)
    if theirs not in (None, mine):
        raise Fatal(
            f"the tables belong to {theirs}, these topics to {mine}: with another Kafka, prefix or "
            "number of partitions begin anew under a new kafka.topic_prefix (docs/backup.md)"
        )


async def _markers(services: Services) -> dict[int, Marker]:
    """Return the newest marker of each lane that has one."""
    topics = services.topics
    name = topics.name(Topic.PUBLISHED)
    places = [TopicPartition(name, lane) for lane in range(topics.partitions + 1)]
    found: dict[int, Marker] = {}
    async with await PartitionReader.open(services.client, dict.fromkeys(places)) as reader:
        async for page in reader.until_end():
            for record in page:
                if record.key == marker.key_of(record.partition) and record.value:
                    found[record.partition] = marker.decode(record.value)
    return found


async def _bounds(services: Services) -> dict[TopicPartition, Bounds]:
    read = {Topic.FIREHOSE, Topic.BACKFILL, Topic.CONTROL, Topic.OPERATIONS}
    names = {*map(services.topics.name, read), *services.topics.event_topics}
    places = [
        TopicPartition(spec.name, partition)
        for spec in services.topics.specs()
        if spec.name in names
        for partition in range(spec.partitions)
    ]
    async with await PartitionReader.open(services.client, dict.fromkeys(places)) as reader:
        return await reader.bounds()


async def _members(services: Services) -> int:
    """Return how many members the deployment's groups have."""
    members = 0
    async with services.client.admin() as admin, deadline(services.client.timeout, "asking"):
        for role in GROUPS:  # one request each: every group has a coordinator of its own
            described = await admin.describe_consumer_groups([services.client.scoped(role)])
            members += sum(len(group[5]) for response in described for group in response.groups)
    return members
