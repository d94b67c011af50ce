"""``consumer topics``: what a Kafka must have for the settings, in the forms that make it so.

Nothing is asked of Kafka: the answer is for those who have rights that we lack.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum

import click

from consumer.cli.options import with_settings
from consumer.config.settings import KafkaSettings, Settings
from consumer.kafka.rights import WHO, Party, Resource, Right, rights
from consumer.kafka.topics import Topics, TopicSpec, demand

_NAMES = {
    Party.CONSUMER: "chive",
    Party.GATEWAY: "chive-gateway",
    Party.SENDER: "chive-sender",
    Party.READER: "chive-reader",
}
_SERVERS = "localhost:9092"
_SHELL = (
    "#!/bin/sh",
    "# For Kafka's tools; credentials: CONFIG='--command-config client.properties' sh FILE",
    "set -eu",
)
_TERRAFORM = (
    "terraform {",
    "  required_providers {",
    "    kafka = {",
    '      source = "Mongey/kafka"',
    "    }",
    "  }",
    "}",
)


class Form(StrEnum):
    """The form of the answer."""

    TEXT = "text"
    KAFKA_TOPICS = "kafka-topics"
    TERRAFORM = "terraform"
    ACLS = "acls"


@click.command("topics")
@with_settings
@click.option(
    "--as",
    "form",
    type=click.Choice([form.value for form in Form]),
    default=Form.TEXT.value,
    help="text; scripts for kafka-topics.sh and kafka-acls.sh; or Terraform (Mongey/kafka).",
)
def topics_command(settings: Settings, *, form: str) -> None:
    """Print the topics that the settings need, and the rights on them.

    Kafka is not asked. What is demanded of topics that others make is marked; the rest is how they
    would be created here (docs/topics.md).
    """
    render: dict[Form, Callable[[KafkaSettings], Iterator[str]]] = {
        Form.TEXT: as_text,
        Form.KAFKA_TOPICS: as_kafka_topics,
        Form.TERRAFORM: as_terraform,
        Form.ACLS: as_acls,
    }
    click.echo("\n".join(render[Form(form)](settings.kafka)))


def as_text(settings: KafkaSettings) -> Iterator[str]:
    """Yield the lines for people."""
    for spec in Topics.of(settings).specs():
        yield f"{spec.name}: partitions {spec.partitions}, replication {spec.replicas}"
        for key, value in spec.demanded.items():
            yield f"  demanded  {key} = {demand(key, spec.config.get(key, value))}"
        for key, value in spec.advised.items():
            yield f"  advised   {key} = {value}"
    for right in _rights(settings):
        names = ", ".join(right.names)
        which = f"{right.resource}s that begin with {names}" if right.prefixed else names
        yield f"{_principal(right.party, settings)}: {', '.join(right.operations)} on {which}"


def as_kafka_topics(settings: KafkaSettings) -> Iterator[str]:
    """Yield a shell script that creates what is missing with ``kafka-topics.sh``."""
    yield from _SHELL
    yield "# Demanded of topics: the partitions and the first line of --config; the rest is advice."
    for spec in Topics.of(settings).specs():
        yield ""
        yield f"{_tool('kafka-topics.sh', settings)} --create --if-not-exists \\"
        yield (
            f"  --topic {spec.name} --partitions {spec.partitions} "
            f"--replication-factor {spec.replicas} \\"
        )
        demanded = {key: spec.config[key] for key in spec.demanded if key in spec.config}
        lines = [_options(group) for group in (demanded, spec.advised) if group]
        yield " \\\n".join(f"  {line}" for line in lines)


def _options(config: dict[str, str]) -> str:
    return " ".join(f"--config {shlex.quote(f'{k}={v}')}" for k, v in config.items())


def as_acls(settings: KafkaSettings) -> Iterator[str]:
    """Yield a shell script that allows what is needed with ``kafka-acls.sh``."""
    yield from _SHELL
    yield "# Replace the principals, and the groups of the readers, by yours."
    party = None
    for right in _rights(settings):
        if right.party != party:
            party = right.party
            yield f"\n# {WHO[party]}"
        yield f"{_tool('kafka-acls.sh', settings)} --add \\"
        principal = shlex.quote(_principal(right.party, settings))
        operations = " ".join(f"--operation {each}" for each in right.operations)
        yield f"  --allow-principal {principal} {operations} \\"
        pattern = "  --resource-pattern-type prefixed" if right.prefixed else " "
        yield pattern + "".join(f" --{right.resource} {name}" for name in right.names)


def _tool(name: str, settings: KafkaSettings) -> str:
    servers = settings.bootstrap_servers or _SERVERS
    return f"{name} --bootstrap-server {servers} ${{CONFIG:-}}"


def as_terraform(settings: KafkaSettings) -> Iterator[str]:
    """Yield resources of the Terraform provider Mongey/kafka."""
    yield from _TERRAFORM
    for spec in Topics.of(settings).specs():
        yield ""
        yield from _topic_resource(spec)
    for party in Party:
        yield f"\n# {WHO[party]}"
        yield f'variable "{party}" {{'
        yield "  type    = string"
        yield f"  default = {_hcl(_principal(party, settings))}"
        yield "}"
        for number, right in enumerate(each for each in _rights(settings) if each.party is party):
            yield ""
            yield from _acl_resource(right, number)


def _topic_resource(spec: TopicSpec) -> Iterator[str]:
    yield f'resource "kafka_topic" "{spec.topic.replace("-", "_")}" {{'
    yield f"  name               = {_hcl(spec.name)}"
    yield f"  partitions         = {spec.partitions} # demanded"
    yield f"  replication_factor = {spec.replicas}"
    yield "  config = {"
    for key, value in sorted(spec.config.items(), key=lambda each: each[0] not in spec.demanded):
        mark = f" # demanded: {demand(key, spec.demanded[key])}" if key in spec.demanded else ""
        yield f"    {_hcl(key)} = {_hcl(value)}{mark}"
    yield "  }"
    yield "}"


def _acl_resource(right: Right, number: int) -> Iterator[str]:
    kinds = {
        Resource.TOPIC: "Topic",
        Resource.GROUP: "Group",
        Resource.TRANSACTIONAL_ID: "TransactionalID",
    }
    yield f'resource "kafka_acl" "{right.party}_{number}" {{'
    yield "  for_each = {"
    yield f"    for pair in setproduct({_list(right.names)}, {_list(right.operations)}) :"
    yield '    join(" ", pair) => pair'
    yield "  }"
    yield "  resource_name                = each.value[0]"
    yield f"  resource_type                = {_hcl(kinds[right.resource])}"
    yield f"  resource_pattern_type_filter = {_hcl('Prefixed' if right.prefixed else 'Literal')}"
    yield f"  acl_principal                = var.{right.party}"
    yield '  acl_host                     = "*"'
    yield "  acl_operation                = each.value[1]"
    yield '  acl_permission_type          = "Allow"'
    yield "}"


def _hcl(text: str) -> str:
    return json.dumps(text).replace("${", "$${").replace("%{", "%%{")


def _list(texts: Iterable[str]) -> str:
    return f"[{', '.join(map(_hcl, texts))}]"


def _rights(settings: KafkaSettings) -> Iterator[Right]:
    create, readers = settings.create_topics, _NAMES[Party.READER]
    return rights(Topics.of(settings), create=create, readers=readers)


def _principal(party: Party, settings: KafkaSettings) -> str:
    named = settings.sasl_username if party is Party.CONSUMER else None
    return f"User:{named or _NAMES[party]}"
