"""``consumer topics``: what it prints is complete, and is what its forms say it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hcl2
import pytest
from click.testing import CliRunner

from consumer.cli import main
from consumer.config.settings import KafkaSettings, TopicSettings
from consumer.config.types import TopicName
from consumer.control import role as controller
from consumer.kafka.rights import GROUPS, Party, Resource, rights
from consumer.kafka.topics import Topic, Topics
from consumer.tail import tailer
from consumer.worker import role as worker

TOPICS = Topics.of(KafkaSettings())


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIVE_CONFIG", raising=False)


def printed(form: str, file: Path | None = None) -> str:
    config = ["--config", str(file)] if file else []
    result = CliRunner().invoke(main.cli, ["topics", "--as", form, *config])
    assert result.exit_code == 0, result.output
    return result.output


def plain(value: Any) -> Any:
    """Return what hcl2 has read without the quotes that it keeps."""
    match value:
        case dict():
            return {plain(key): plain(item) for key, item in value.items()}
        case list():
            return [plain(item) for item in value]
        case str():
            return value.strip('"')
        case _:
            return value


def resources(text: str, kind: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for resource in plain(hcl2.loads(text))["resource"]:
        found |= resource.get(kind, {})
    return found


def test_text_tells_demand_from_advice() -> None:
    lines = printed("text").splitlines()
    begin = lines.index("chive.events: partitions 8, replication 1")
    events = lines[begin + 1 : begin + 10]
    assert "  demanded  cleanup.policy = compact" in events
    assert "  demanded  max.message.bytes = at least 8388608" in events
    assert "  advised   min.insync.replicas = 1" in events
    assert "User:chive: Write on transactional-ids that begin with chive." in lines


def test_terraform_has_every_topic_as_it_would_be_created(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        "[kafka]\nreplication_factor = 3\n"
        '[kafka.topics.all]\nconfig = { "compression.type" = "" }\n'
        '[kafka.topics.dead-letter]\nconfig = { "x.y" = "\\"${z}%{if}" }\n'
    )
    found = resources(printed("terraform", file), "kafka_topic")
    changes: dict[TopicName, TopicSettings] = {
        "all": TopicSettings(config={"compression.type": ""}),
        "dead-letter": TopicSettings(config={"x.y": "z"}),
    }
    specs = Topics("chive.", 8, 3, changes).specs()
    assert {each["name"] for each in found.values()} == {spec.name for spec in specs}
    for spec in specs:
        one = found[spec.topic.replace("-", "_")]
        assert (one["partitions"], one["replication_factor"]) == (spec.partitions, 3)
        odd = one["config"].pop("x.y", None)
        assert (odd is not None) == (spec.topic is Topic.DEAD_LETTER)
        assert odd in (None, '\\"$${z}%%{if}')
        assert one["config"] == {k: v for k, v in spec.config.items() if k != "x.y"}


def test_terraform_has_every_right() -> None:
    text = printed("terraform")
    found = resources(text, "kafka_acl")
    expected = list(rights(TOPICS, create=True, readers="chive-reader"))
    assert len(found) == len(expected)
    variables = {name for each in plain(hcl2.loads(text))["variable"] for name in each}
    assert variables == set(Party)
    for one in found.values():
        assert one["acl_principal"].strip("${}") in {f"var.{party}" for party in Party}
        assert one["resource_type"] in {"Topic", "Group", "TransactionalID"}
        assert one["acl_permission_type"] == "Allow"


def test_what_others_create_needs_no_right_to_create(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--operation Create" in printed("acls")
    monkeypatch.setenv("CHIVE_KAFKA__CREATE_TOPICS", "false")
    assert "--operation Create" not in printed("acls")


def test_the_user_of_the_settings_is_the_principal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHIVE_KAFKA__SASL_USERNAME", "it's me")
    assert "--allow-principal 'User:it'\"'\"'s me'" in printed("acls")


def test_groups_are_those_that_the_roles_join() -> None:
    assert set(GROUPS) == {tailer.ROLE, worker._GROUP, controller._GROUP}
    (groups,) = [
        right.names
        for right in rights(Topics("p.", 1), create=False, readers="r")
        if right.party is Party.CONSUMER and right.resource is Resource.GROUP
    ]
    assert groups == ("p.tailer", "p.worker", "p.controller")
