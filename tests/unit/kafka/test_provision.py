"""What is said of topics, by the answers of a scripted cluster."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from consumer.errors import Fatal
from consumer.kafka.provision import look
from consumer.kafka.replicas import _shortage
from consumer.kafka.topics import MIN_INSYNC, Topics

NOT_ALLOWED = 29


@dataclass
class Admin:
    """A cluster that has all topics of ``topics`` as they would be created, but for ``changed``."""

    topics: Topics
    replicas: int
    changed: dict[str, str] = field(default_factory=dict)
    hidden: str = ""

    async def describe_topics(self) -> list[dict[str, Any]]:
        partition = {"replicas": list(range(self.replicas))}
        return [
            {"topic": spec.name, "partitions": [partition] * spec.partitions}
            for spec in self.topics.specs()
        ]

    async def describe_configs(self, resources: list[Any]) -> list[Any]:
        config = {spec.name: {**spec.config, **self.changed} for spec in self.topics.specs()}
        answers = [
            (NOT_ALLOWED if each.name == self.hidden else 0, "", 2, each.name) for each in resources
        ]
        return [SimpleNamespace(resources=[(*a, list(config[a[3]].items())) for a in answers])]


@pytest.mark.parametrize(
    ("replicas", "insync", "advice"),
    [
        (3, "2", None),
        (3, "3", None),  # strict, and it can be met
        (3, "1", "min.insync.replicas = 1 with replication 3, 2 is advised"),
        (2, "2", "replication 2, 3 is advised"),
        (2, "3", "min.insync.replicas = 3 with replication 2, 1 is advised"),
        (5, "4", None),
    ],
)
async def test_advice_on_replicas(replicas: int, insync: str, advice: str | None) -> None:
    topics = Topics("c.", 2, replication_factor=3)
    found = await look(Admin(topics, replicas, {MIN_INSYNC: insync}), topics.specs())
    assert (found.missing, found.wrong) == ((), ())
    if advice is None:
        assert found.advice == ()
    else:
        assert any(advice in text for text in found.advice)


async def test_a_configuration_that_may_not_be_read_is_a_missing_right() -> None:
    topics = Topics("c.", 2)
    admin = Admin(topics, 1, hidden="c.events")
    with pytest.raises(Fatal, match=r"DescribeConfigs on topic c\.events.*--as acls"):
        await look(admin, topics.specs())


@pytest.mark.parametrize(
    ("leader", "replicas", "insync", "least", "old", "new"),
    [
        (1, 1, 1, 1, None, None),
        (1, 1, 1, 2, "correct one of them", None),
        (1, 3, 3, 2, None, None),
        (1, 3, 1, 2, "1 of 3 replicas in sync", "1 of 3 replicas in sync"),
        (1, 2, 1, 3, "correct one of them", "1 of 2 replicas in sync"),
        (-1, 1, 0, 1, "no leader", "no leader"),
    ],
)
def test_what_cannot_be_written_to(
    leader: int, replicas: int, insync: int, least: int, old: str | None, new: str | None
) -> None:
    worst = {
        "partition": 1,
        "leader": leader,
        "replicas": list(range(replicas)),
        "isr": list(range(insync)),
    }
    well = {**worst, "partition": 0, "leader": 1, "isr": worst["replicas"]}
    for forgiving, words in ((False, old), (True, new)):
        said = _shortage("c.events", [well, worst], least, forgiving=forgiving)
        assert said is None if words is None else words in (said or "")
