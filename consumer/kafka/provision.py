"""Topics as they are and as they must be: create what is missing, judge what exists.

What correctness rests on is demanded of topics that others have made.  The rest is advice: it is
said, once.  A broker's refusal to create a topic names the setting to change.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka import errors
from aiokafka.admin import NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client, deadline
from consumer.kafka.topics import MIN_INSYNC, Topics, TopicSpec
from consumer.metrics.labels import Service

MISSING = "topics"
"""What is waited for while others have not made the topics yet."""

_HELP = "'consumer topics' prints how to make them (docs/topics.md)"
_RIGHTS = "'consumer topics --as acls' prints all rights (docs/topics.md)"
_AGAIN = 0.05

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a cluster has of the topics: ``wrong`` and ``advice`` are sentences for people."""

    missing: tuple[TopicSpec, ...]
    wrong: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def names(self) -> str:
        """The names of the missing topics."""
        return ", ".join(spec.name for spec in self.missing)


async def ensure(client: Client, topics: Topics) -> None:
    """Create the topics that do not exist, and check those that do.

    Raises ``Fatal`` if one lacks what is demanded, or cannot be created; ``Transient`` if Kafka is
    away, or if one is missing that others are to make.
    """
    specs = topics.specs()
    async with client.admin() as admin:
        async with deadline(client.timeout, "preparing topics"):
            found = await look(admin, specs)
            if found.wrong:
                raise Fatal("; ".join(found.wrong))
            if found.missing and not client.settings.create_topics:
                raise Transient(_not_made(found), MISSING)
            await _create(admin, found.missing)
        await _await_leaders(admin, [spec.name for spec in specs], client.timeout)
        if found.missing:  # other processes, or the broker's own defaults, may have had a say
            async with deadline(client.timeout, "looking at topics"):
                found = await look(admin, specs)
    if found.wrong:
        raise Fatal("; ".join(found.wrong))
    if found.advice:
        _log.warning("topics_differ", advice=found.advice)


async def rehearse(client: Client, topics: Topics) -> Verdict:
    """Return what ``ensure`` would find, and ask the broker whether it would create the rest.

    Raises ``Fatal`` and ``Transient`` as ``ensure`` would; nothing is changed.
    """
    specs = topics.specs()
    async with client.admin() as admin, deadline(client.timeout, "looking at topics"):
        found = await look(admin, specs)
        if found.wrong:
            raise Fatal("; ".join(found.wrong))
        if found.missing and not client.settings.create_topics:
            raise Transient(_not_made(found), MISSING)
        await _create(admin, found.missing, validate_only=True)
    return found


async def look(admin: Any, specs: Sequence[TopicSpec]) -> Verdict:
    """Compare the topics of a cluster with ``specs``.

    Raises what the driver raises, and ``Fatal`` if a configuration may not be read.
    """
    # All are listed: asked for by name, a broker might create them, each in its own way.
    present = {each["topic"]: each["partitions"] for each in await admin.describe_topics()}
    there = [spec for spec in specs if spec.name in present]
    wrong = [
        f"topic {spec.name} has {len(present[spec.name])} partitions, "
        f"the settings say {spec.partitions}: the number is fixed at creation"
        for spec in there
        if len(present[spec.name]) != spec.partitions
    ]
    advice: list[str] = []
    configs = await topic_configs(admin, [spec.name for spec in there])
    for spec in there:
        if spec.name not in configs:
            raise Fatal(f"the right DescribeConfigs on topic {spec.name} is missing: {_RIGHTS}")
        replicas = min((len(each["replicas"]) for each in present[spec.name]), default=0)
        wrong += spec.breaches(configs[spec.name])
        advice += _advice(spec, configs[spec.name], replicas)
    missing = tuple(spec for spec in specs if spec.name not in present)
    return Verdict(missing, tuple(wrong), tuple(advice))


def _advice(spec: TopicSpec, actual: Mapping[str, str], replicas: int) -> list[str]:
    """Return what could be better of a topic, a sentence each."""
    said = [
        f"{spec.name} has {key} = {actual[key]}, {value} is advised"
        for key, value in spec.advised.items()
        if key != MIN_INSYNC and actual.get(key, value) != value
    ]
    if replicas < spec.replicas:
        said.append(f"{spec.name} has replication {replicas}, {spec.replicas} is advised")
    insync, best = int(actual.get(MIN_INSYNC, 1)), max(replicas - 1, 1)
    if insync > replicas or (MIN_INSYNC in spec.config and insync < best):
        said.append(
            f"{spec.name} has {MIN_INSYNC} = {insync} with replication {replicas}, "
            f"{best} is advised"
        )
    return said


async def topic_configs(
    admin: Any, names: Sequence[str], *keys: str
) -> dict[str, Mapping[str, str]]:
    """Return the configuration of each topic that may be read, or only ``keys`` of it.

    Raises what the driver raises.
    """
    if not names:
        return {}
    wanted = dict.fromkeys(keys) or None
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, wanted) for name in names]
    found: dict[str, Mapping[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            error = errors.for_code(code)
            if error is errors.TopicAuthorizationFailedError:
                continue
            if error is not errors.NoError:
                raise error(f"{name}: {message}")
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


def _not_made(found: Verdict) -> str:
    return f"topics are missing, and kafka.create_topics is false: {found.names}; {_HELP}"


async def _create(admin: Any, specs: Iterable[TopicSpec], *, validate_only: bool = False) -> None:
    wanted = {spec.name: spec for spec in specs}
    if not wanted:
        return
    new = [
        NewTopic(spec.name, spec.partitions, spec.replicas, topic_configs=dict(spec.config))
        for spec in wanted.values()
    ]
    refused: defaultdict[type[Exception], list[TopicSpec]] = defaultdict(list)
    said: defaultdict[type[Exception], dict[str, None]] = defaultdict(dict)  # in order, once each
    response = await admin.create_topics(new, validate_only=validate_only)
    for name, code, *message in response.topic_errors:
        error = errors.for_code(code)
        # Another process may create the same topics at the same time.
        if error not in (errors.NoError, errors.TopicAlreadyExistsError):
            refused[error].append(wanted[name])
            said[error][" ".join(map(str, message))] = None
    for error, topics in refused.items():
        setting, words = _setting(error, topics), "; ".join(said[error])
        if setting is None:
            raise error(f"{topics[0].name}: {words}")
        raise Fatal(
            f"Kafka refuses to create {', '.join(spec.name for spec in topics)} "
            f"({error.__name__.removesuffix('Error')}: {words}): {setting}; or set "
            f"kafka.create_topics = false and let others make the topics: {_HELP}"
        )


def _setting(error: type[Exception], topics: Sequence[TopicSpec]) -> str | None:
    """Return what an operator should change; None if it is no refusal by a rule of the broker."""
    place = f"kafka.topics.{topics[0].topic if len(topics) == 1 else 'all'}"
    config = f"change {place}.config (an empty value leaves a key to the broker)"
    factor = f"{place}.replication_factor (now {topics[0].replicas})"
    create = f"allow the operation Create on them: {_RIGHTS}"
    return {
        errors.InvalidReplicationFactorError: f"change kafka.replication_factor, or {factor}",
        errors.InvalidConfigurationError: config,
        errors.PolicyViolationError: f"{config}, or {factor}",
        errors.InvalidPartitionsError: "change kafka.partitions",
        errors.InvalidTopicError: "change kafka.topic_prefix",
        errors.TopicAuthorizationFailedError: create,
        errors.ClusterAuthorizationFailedError: create,
    }.get(error)


async def _await_leaders(admin: Any, names: Sequence[str], seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while True:
        async with deadline(seconds, "asking for leaders"):
            described = await admin.describe_topics(names)
        if without := sorted(filter(None, map(_leaderless, described))):
            if time.monotonic() >= give_up:
                raise Transient(f"no leader of {', '.join(without)}", Service.KAFKA)
            await asyncio.sleep(_AGAIN)
        else:
            return


def _leaderless(topic: Mapping[str, Any]) -> str | None:
    """Return the topic's name if one of its partitions has no leader yet."""
    if errors.for_code(topic["error_code"]) is errors.TopicAuthorizationFailedError:
        raise Fatal(f"the right Describe on topic {topic['topic']} is missing: {_RIGHTS}")
    partitions = topic["partitions"]
    if partitions and all(partition["leader"] >= 0 for partition in partitions):
        return None
    return str(topic["topic"])
