"""The rights that each kind of client needs on a Kafka with authorization.

They follow from what the code asks of Kafka.  Reading and writing include Describe, as Kafka has
it; idempotent producers need no right on the cluster since Kafka 2.8 (KIP-679), nor does anything
else here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from consumer.kafka.topics import Topic, Topics

GROUPS = ("tailer", "worker", "controller")
"""The groups of a deployment, without its prefix."""


class Party(StrEnum):
    """Who is allowed something."""

    CONSUMER = "consumer"
    GATEWAY = "gateway"
    SENDER = "sender"
    READER = "reader"


WHO = {
    Party.CONSUMER: "the consumer, with all its roles and commands",
    Party.GATEWAY: "a process of the role gateway alone",
    Party.SENDER: "any other program that sends commands",
    Party.READER: "people and programs that only read",
}


class Resource(StrEnum):
    """What a right is for, in the words of ``kafka-acls.sh``."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


@dataclass(frozen=True, slots=True)
class Right:
    """Operations on each of ``names``; ``prefixed``: on everything that begins with them."""

    party: Party
    resource: Resource
    names: tuple[str, ...]
    operations: tuple[str, ...]
    prefixed: bool = False


def rights(topics: Topics, *, create: bool, readers: str) -> Iterator[Right]:
    """Yield all rights.

    ``create``: the consumer makes its topics.  ``readers``: what the groups of readers begin with.
    """
    every = tuple(spec.name for spec in topics.specs())
    control = (topics.name(Topic.CONTROL),)
    told = (*topics.event_topics, topics.name(Topic.OPERATIONS))
    groups = tuple(f"{topics.prefix}{group}" for group in GROUPS)
    # Every process compares the topics with what they must be (provision), and looks for
    # transactions that were left open (stable).
    consumer = ("Read", "Write", "DescribeConfigs", *(["Create"] if create else []))
    # In this order: a consumer that waits for its topics begins when it may see them.
    yield Right(Party.CONSUMER, Resource.GROUP, groups, ("Read",))
    ids = (topics.prefix,)
    yield Right(Party.CONSUMER, Resource.TRANSACTIONAL_ID, ids, ("Write",), prefixed=True)
    yield Right(Party.CONSUMER, Resource.TOPIC, every, consumer)
    yield Right(Party.GATEWAY, Resource.TOPIC, every, ("Describe", "DescribeConfigs"))
    yield Right(Party.GATEWAY, Resource.TOPIC, control, ("Read", "Write"))
    letters = (topics.name(Topic.DEAD_LETTER),)
    yield Right(Party.GATEWAY, Resource.TOPIC, letters, ("Read",))
    yield Right(Party.SENDER, Resource.TOPIC, control, ("Write",))
    yield Right(Party.READER, Resource.TOPIC, told, ("Read",))
    yield Right(Party.READER, Resource.GROUP, (readers,), ("Read",), prefixed=True)
