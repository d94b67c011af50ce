"""The composition root: what a worker process inherits."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer import app
from consumer.app import Plan
from consumer.config.settings import HttpSettings, RelaySettings, Settings
from consumer.config.sources import load
from consumer.errors import Fatal
from consumer.services import at


def plan(tmp_path: Path, **sections: object) -> Plan:
    settings = Settings.model_validate({"data_dir": tmp_path / "data", **sections})
    return Plan(at(settings, "127.0.0.1:9092", "postgresql://u:p%20w@127.0.0.1/db"))


def inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plan: Plan, number: int) -> Settings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHIVE_CONFIG", raising=False)
    for name, value in app._inherited(plan, number).items():
        monkeypatch.setenv(name, value)
    return load()


def test_a_worker_process_uses_the_parents_servers_and_relay(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    parent = plan(tmp_path, relay=RelaySettings(url="wss://relay.example"))
    child = inherited(monkeypatch, tmp_path, parent, 1)
    assert child == parent.settings


def test_a_worker_process_reads_the_parents_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[worker]\nbatch_frames = 7\n")
    base = plan(tmp_path)
    parent = Plan(base.settings, base.roles, 2, file)
    assert inherited(monkeypatch, tmp_path, parent, 1).worker.batch_frames == 7


@pytest.mark.parametrize(("port", "expected"), [(0, 0), (9100, 9102)])
def test_every_process_has_a_port_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int, expected: int
) -> None:
    parent = plan(tmp_path, http=HttpSettings(port=port))
    assert inherited(monkeypatch, tmp_path, parent, 2).http.port == expected


def test_without_addresses_there_is_nothing_to_inherit() -> None:
    with pytest.raises(Fatal, match=r"kafka\.bootstrap_servers and postgres\.dsn"):
        app._inherited(Plan(Settings()), 1)
