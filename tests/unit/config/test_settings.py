"""Single settings: what is accepted, in which normal form, and what is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from consumer.config import types
from consumer.config.settings import (
    GatewaySettings,
    KafkaSettings,
    LimitSettings,
    RelaySettings,
    Settings,
)
from consumer.config.sources import dump, paths

DEFAULT_TOML = Path(__file__).parents[3] / "config" / "default.toml"


def test_default_toml_is_the_code() -> None:
    assert Settings.model_validate(tomllib.loads(DEFAULT_TOML.read_text())) == Settings()


def test_default_toml_names_every_setting_once() -> None:
    section, documented = "", []
    for line in DEFAULT_TOML.read_text().splitlines():
        if table := re.fullmatch(r"\[(\w+)]", line):
            section = table[1] + "."
        elif table := re.fullmatch(r"\[(\w+\.\w+)]", line):
            documented.append(table[1])
        elif key := re.fullmatch(r"(?:# )?([a-z_]+) = .*", line):
            documented.append(section + key[1])
    assert sorted(documented) == sorted(".".join(path) for path in paths())


def test_default_toml_gives_every_value_that_is_not_none() -> None:
    given = tomllib.loads(DEFAULT_TOML.read_text())
    for section, values in dump(Settings()).items():
        if isinstance(values, dict):
            assert set(given[section]) == {k for k, v in values.items() if v is not None}


def test_service_entries_with_and_without_their_sign() -> None:
    assert GatewaySettings().fragments == ("chive_appview", "chive")
    assert GatewaySettings(fragments=("#one", "two"), fragment="#one").fragments == ("one", "two")
    for wrong in ("", "#", "a b", "##a", "a" * 65):
        with pytest.raises(ValidationError):
            GatewaySettings(fragments=(wrong,))
    with pytest.raises(ValidationError):
        GatewaySettings(fragments=())


@pytest.mark.parametrize(
    "text",
    ["pub.chive.*", "app.bsky.feed.post", "*", "com.*", "site.standard.docCollection", "a1.b-c.d9"],
)
def test_patterns(text: str) -> None:
    assert types.pattern(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pub.chive*",
        "pub.*.x",
        "*.chive",
        ".*",
        "pub..*",
        "pub.chive",
        "1pub.chive.x",
        "pub.chive.x-y",
        "pub.-chive.x",
        "pub.chive.*.*",
        "pub.chive.x\n",
        "pub.chive.x/3k",
        "é.b.c",
        "a." * 160 + "c",
    ],
)
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        types.pattern(text)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("wss://bsky.network", "wss://bsky.network"),
        ("wss://Relay.Example/", "wss://relay.example"),
        ("https://relay.example", "wss://relay.example"),
        ("http://localhost:2583", "ws://localhost:2583"),
        ("wss://r.example/xrpc/com.atproto.sync.subscribeRepos", "wss://r.example"),
        ("ws://[::1]:3000", "ws://[::1]:3000"),
    ],
)
def test_relay_urls(given: str, normal: str) -> None:
    assert types.relay_url(given) == normal


@pytest.mark.parametrize(
    "text",
    [
        "bsky.network",
        "ftp://x",
        "wss://",
        "wss://x/path",
        "wss://u:p@x",
        "wss://x?cursor=1",
        "wss://x:99999",
        "wss://[x",
    ],
)
def test_what_is_no_relay_url(text: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        types.relay_url(text)


def test_plain_http_is_for_loopback() -> None:
    assert types.http_origin("http://localhost:2582/") == "http://localhost:2582"
    with pytest.raises(ValueError, match="loopback"):
        types.http_origin("http://plc.directory")


def test_servers() -> None:
    assert types.servers("a:1, b:2") == "a:1,b:2"
    for wrong in ("a", "a:", ":1", "a:x", "a:70000", "a:1,", "kafka://a:1"):
        with pytest.raises(ValueError, match="host:port"):
            types.servers(wrong)


def test_dids() -> None:
    for right in ("did:plc:z72i7hdynmk6r22z27h6tvur", "did:web:localhost%3A8099", "did:web:a.b"):
        assert types.did(right) == right
    for wrong in ("did:plc:short", "did:key:z6", "alice.test", "did:web:a/b"):
        with pytest.raises(ValueError, match="did"):
            types.did(wrong)


def test_rules_that_span_settings() -> None:
    with pytest.raises(ValidationError, match="sasl_username"):
        KafkaSettings(security_protocol="SASL_SSL")
    with pytest.raises(ValidationError, match="commit_blocks"):
        LimitSettings(frame=1000)
    with pytest.raises(ValidationError):
        GatewaySettings(admins=("alice",))


@pytest.mark.parametrize(
    ("given", "relays"),
    [
        ({}, ("wss://bsky.network",)),
        ({"url": "wss://a"}, ("wss://a",)),
        ({"urls": ["wss://b", "https://c/"]}, ("wss://b", "wss://c")),
        ({"url": "wss://c", "urls": ["wss://b", "wss://c"]}, ("wss://c", "wss://b")),
    ],
)
def test_relays_in_their_order(given: dict[str, Any], relays: tuple[str, ...]) -> None:
    settings = RelaySettings(**given)
    assert settings.relays == relays
    assert settings.url == relays[0]


def test_quiet_relays_are_not_left() -> None:
    urls = ("wss://a", "wss://b")
    with pytest.raises(ValidationError, match="failover_after is not longer than silence"):
        RelaySettings(urls=urls, silence=30.0, failover_after=30.0)
    assert RelaySettings(urls=urls[:1], silence=30.0, failover_after=30.0).relays == ("wss://a",)


@pytest.mark.parametrize(
    ("given", "cursor"), [("live", None), ("oldest", 0), (31_527_015_322, 31_527_015_322)]
)
def test_the_first_cursor(given: Any, cursor: int | None) -> None:
    assert RelaySettings(start=given).first_cursor == cursor
    assert RelaySettings.model_validate({"start": str(given)}).first_cursor == cursor


def test_a_sequence_number_is_of_one_relay() -> None:
    with pytest.raises(ValidationError, match="belongs to one relay"):
        RelaySettings(urls=("wss://a", "wss://b"), start=5)
