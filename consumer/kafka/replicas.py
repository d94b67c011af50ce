"""Partitions that refuse writes because replicas are missing, without an error.

A broker refuses a write with ``acks=all`` while fewer replicas are in sync than
``min.insync.replicas``; the driver tries again silently.  Brokers before 3.7 do so also where
the topic has fewer replicas than that at all (KAFKA-15583).  Groups and transactions rest on topics
of Kafka's own, which are looked at as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import structlog
from aiokafka.protocol.admin import ApiVersionRequest

from consumer.errors import Transient
from consumer.kafka.client import Client, deadline
from consumer.kafka.provision import topic_configs
from consumer.kafka.topics import MIN_INSYNC, Topics
from consumer.metrics.labels import Service
from consumer.runtime.tasks import wait_for_stop

# What sets the number for Kafka's own topics when they are created.
_INTERNAL = {
    "__consumer_offsets": MIN_INSYNC,
    "__transaction_state": "transaction.state.log.min.isr",
}
_EVERY_SECONDS = 10.0
_PRODUCE, _FORGIVING = 0, 10  # the request, and its version that came with 3.7

_Partitions = Mapping[str, Sequence[Mapping[str, Any]]]
"""What the cluster says of the partitions of topics."""

_log = structlog.get_logger()


async def shortages(client: Client, topics: Topics) -> list[str]:
    """Return which topics cannot be written to and why, a sentence each.

    Raises ``Transient`` or ``Fatal``.
    """
    async with client.admin() as admin, deadline(client.timeout, "asking for replicas"):
        return await _shortages(admin, await _present(admin, _wanted(topics)))


def _wanted(topics: Topics) -> frozenset[str]:
    return frozenset([*_INTERNAL, *(spec.name for spec in topics.specs())])


async def _present(admin: Any, wanted: Collection[str]) -> _Partitions:
    """Return those of the wanted topics that there are, and that we may see."""
    # All are listed: a broker might create one that is asked for by name.
    described = await admin.describe_topics()
    return {each["topic"]: each["partitions"] for each in described if each["topic"] in wanted}


async def _shortages(admin: Any, present: _Partitions) -> list[str]:
    configs = await topic_configs(admin, list(present), MIN_INSYNC)
    forgiving = await _is_forgiving(admin)
    sentences = []
    for name, partitions in sorted(present.items()):
        least = int(configs.get(name, {}).get(MIN_INSYNC, 1))
        if sentence := _shortage(name, partitions, least, forgiving=forgiving):
            sentences.append(sentence)
    return sentences


def _shortage(
    name: str, partitions: Iterable[Mapping[str, Any]], least: int, *, forgiving: bool
) -> str | None:
    """Say why some partitions of a topic cannot be written to; ``least`` must be in sync."""
    worst = min(partitions, key=lambda each: (each["leader"] >= 0, len(each["isr"])), default=None)
    if worst is None:
        return None
    replicas, insync = len(worst["replicas"]), len(worst["isr"])
    setting = _INTERNAL.get(name, MIN_INSYNC)
    if worst["leader"] < 0:
        return f"partition {worst['partition']} of {name} has no leader: brokers are away"
    if least > replicas and not forgiving:
        return (
            f"topic {name} has replication {replicas} and {MIN_INSYNC} = {least}: nothing can be "
            f"written to it; correct one of them (when it was created, {setting} said so)"
        )
    if insync < min(least, replicas):
        return (
            f"partition {worst['partition']} of {name} has {insync} of {replicas} replicas in "
            f"sync, {MIN_INSYNC} is {least}: nothing can be written to it until brokers are back"
        )
    return None


async def _is_forgiving(admin: Any) -> bool:
    """Tell whether a topic with few replicas needs no more of them in sync than it has."""
    response = await admin._send_request(ApiVersionRequest())  # noqa: SLF001 - nothing public asks
    return any(key == _PRODUCE and newest >= _FORGIVING for key, _, newest in response.api_versions)


class Replicas:
    """Watches the topics of a deployment for missing replicas, and names them."""

    def __init__(self, client: Client, topics: Topics) -> None:
        self._client = client
        self._wanted = _wanted(topics)
        self._found: list[str] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Look every few seconds until told to stop.  Raises ``Transient`` or ``Fatal``."""
        present: _Partitions = {}
        async with self._client.admin() as admin:
            while not stop.is_set():
                async with deadline(self._client.timeout, "asking for replicas"):
                    present = await self._look(admin, present.keys())
                    self._note(await _shortages(admin, present))
                await wait_for_stop(stop, _EVERY_SECONDS)

    async def _look(self, admin: Any, seen: Collection[str]) -> _Partitions:
        """List the topics of the cluster, which may be many, until all have been seen."""
        if len(seen) < len(self._wanted):
            return await _present(admin, self._wanted)
        described = await admin.describe_topics(sorted(seen))
        return {each["topic"]: each["partitions"] for each in described}

    async def check(self) -> None:
        """Raise ``Transient`` that names what cannot be written to, if there is anything."""
        if self._found:
            raise Transient("; ".join(self._found), Service.KAFKA)

    def _note(self, found: list[str]) -> None:
        if found and found != self._found:
            _log.warning("replicas_missing", topics=found)
        elif self._found and not found:
            _log.info("replicas_back")
        self._found = found
