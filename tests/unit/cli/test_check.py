"""What ``check`` shows of settings and of servers that cannot be reached: no secret among it."""

from __future__ import annotations

import io
import json
import logging
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog
from pydantic import SecretStr

from consumer.cli import check, questions
from consumer.config.settings import LogSettings, Settings
from consumer.config.sources import load
from consumer.errors import Fatal, Transient
from consumer.kafka.client import Client
from consumer.runtime import logs
from consumer.store.database import Database
from tests.support.relay import ScriptedRelay, idle
from tests.support.schema_registry import scripted
from tests.support.web import response, web
from tests.support.web_proxy import web_proxy

NOWHERE = "http://127.0.0.1:1"
SECRET = "hid/d:en@1"  # noqa: S105 - to be looked for
ENCODED = "hid%2Fd%3Aen%401"
DSNS = [
    f"postgresql://u:{ENCODED}@127.0.0.1:1/db",
    f"postgresql://u@127.0.0.1:1/db?password={ENCODED}&sslkey=/key&sslpassword={ENCODED}",
    f"host=127.0.0.1 port=1 user=u password='{SECRET}'",
    f"host=127.0.0.1 port=none user=u password='{SECRET}'",
    f"host=127.0.0.1 port=1 sslmode=none user=u password='{SECRET}'",
]


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Give everything that is logged, as chatty as it can be."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure(LogSettings(format="json", level="debug"), stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture(params=DSNS)
def settings(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Settings:
    """Give settings with secrets, of servers that are not there."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "POSTGRES__DSN": request.param,
        "RELAY__URL": "ws://127.0.0.1:1",
        "IDENTITY__PLC_URL": "http://127.0.0.1:1",
        "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA__SASL_USERNAME": "u",
        "KAFKA__SASL_PASSWORD": SECRET,
        "KAFKA__REQUEST_TIMEOUT": "10",
    }.items():
        monkeypatch.setenv(f"CHIVE_{name}", value)
    return load()


def assert_hidden(text: str) -> None:
    for form in (SECRET, ENCODED, json.dumps(SECRET)[1:-1], "hid", "en@1"):
        assert form not in text


async def test_neither_settings_nor_failures_show_a_secret(
    settings: Settings, log: io.StringIO
) -> None:
    answers = await check.check(settings)
    assert [answers[name].ok for name in ("kafka", "postgres", "relay")] == [False] * 3
    assert_hidden(check.to_toml(settings, answers))
    assert_hidden(json.dumps(check.to_json(settings, answers)))
    assert_hidden(repr(settings))
    assert_hidden(log.getvalue())


async def test_tracebacks_of_failed_connections_show_no_secret(
    settings: Settings, log: io.StringIO
) -> None:
    database = Database(settings.postgres, "chive.")
    for ask in (database.server, database.open, database.attach, Client(settings.kafka).cluster_id):
        with pytest.raises(Transient) as caught:
            await ask()
        assert_hidden("".join(traceback.format_exception(caught.value)))
        structlog.get_logger().error("root_failed", exc_info=caught.value)
    await database.close()
    assert "Traceback" in log.getvalue()
    assert_hidden(log.getvalue())


async def test_what_a_relay_answers_is_escaped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    head = "HTTP/1.1 403 \x1b[31m\x9b2J\u202e\r\nx: \x1b[2J\r\ncontent-length: 0\r\n\r\n"
    async with web() as site:
        site.replies["/xrpc/com.atproto.sync.subscribeRepos"] = head.encode()
        monkeypatch.setenv("CHIVE_IDENTITY__PLC_URL", site.origin)
        settings = load(overrides={"relay": {"url": f"ws://127.0.0.1:{site.port}"}})
        answer = (await check.check(settings))["relay"]
    assert site.paths
    assert answer.ok is False
    assert answer.detail.isprintable()


async def test_which_source_serves_and_which_wildcard_stands_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "/xrpc/com.atproto.sync.listReposByCollection?collection=a.b.c&limit=1"
    async with web() as relay, web() as other:
        overrides = {
            "relay": {"url": f"ws://127.0.0.1:{relay.port}"},
            "network": {"allow_loopback": True},
            "identity": {"plc_url": other.origin},
            "scope": {"collections": ["a.b.c", "org.example.*"]},
            "discovery": {"sources": ["relay", other.origin]},
        }
        silent = (await check.check(load(overrides=overrides)))["discovery"]
        other.replies[path] = response(200, b'{"repos":[]}')
        answers = await check.check(load(overrides=overrides))
    assert (silent.ok, answers["discovery"].ok) == (None, True)
    assert "no source serves a.b.c" in silent.detail
    assert f"{other.origin} serves a.b.c ({relay.origin} does not: status 404" in (
        answers["discovery"].detail
    )
    assert "org.example.*" in answers["scope"].detail


def test_a_connection_string_that_was_not_checked_is_not_quoted() -> None:
    broken = Settings().postgres.model_copy(update={"dsn": SecretStr(f"host=h {SECRET}")})
    with pytest.raises(Fatal) as caught:
        Database(broken, "chive.")
    assert_hidden("".join(traceback.format_exception(caught.value)))


async def test_the_proxy_is_asked_and_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    async with web_proxy() as way, ScriptedRelay() as relay:
        network = {"proxy": f"http://u:{ENCODED}@127.0.0.1:{way.port}", "proxy_resolves": True}
        relay.behave(idle)
        overrides = {
            "relay": {"url": relay.url.replace("127.0.0.1", "relay.example")},
            "network": network,
            "identity": {"plc_url": "https://plc.example"},
            "scope": {"history": "live"},
        }
        way.elsewhere["relay.example"] = int(relay.url.rpartition(":")[2])
        settings = load(overrides=overrides)
        answers = await check.check(settings)
        assert (answers["proxy"].ok, answers["relay"].ok) == (True, True)
        assert "it alone can refuse" in answers["proxy"].detail
        assert_hidden(check.to_toml(settings, answers))
    dead = await check.check(settings)
    assert (dead["proxy"].ok, dead["relay"].ok) == (False, False)
    assert "identity.plc_url" not in dead["directory"].detail
    for name in ("proxy", "relay"):
        assert f"proxy http://127.0.0.1:{way.port} cannot be reached" in dead[name].detail
        assert_hidden(dead[name].detail)


def settings_for(monkeypatch: pytest.MonkeyPatch, folder: Path, relay: str, plc: str) -> Settings:
    monkeypatch.chdir(folder)
    overrides = {
        "relay": {"url": relay},
        "identity": {"plc_url": plc},
        "network": {"allow_loopback": True},
        "scope": {"history": "live"},
    }
    return load(overrides=overrides)


@pytest.mark.parametrize("status", [HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE])
async def test_a_relay_that_refuses_a_second_connection_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: HTTPStatus
) -> None:
    async with ScriptedRelay() as relay:
        relay.behave(status)
        answers = await check.check(settings_for(monkeypatch, tmp_path, relay.url, NOWHERE))
        assert answers["relay"].ok is True
        assert f"answers HTTP {status.value}: it is there" in answers["relay"].detail
        relay.behave(HTTPStatus.NOT_FOUND)
        answers = await check.check(settings_for(monkeypatch, tmp_path, relay.url, NOWHERE))
        assert answers["relay"].ok is False


async def test_whether_the_directory_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with web() as plc:
        settings = settings_for(monkeypatch, tmp_path, NOWHERE.replace("http", "ws"), plc.origin)
        assert (await check.check(settings))["directory"].ok is True
        plc.replies = {path: response(403, b"no") for path in plc.paths}
        found = (await check.check(settings))["directory"]
        assert found.ok is False
        assert "is identity.plc_url right?" in found.detail
    away = (await check.check(settings))["directory"]
    assert away.ok is False
    assert "is identity.plc_url right?" in away.detail


@pytest.mark.parametrize(
    ("hours", "ok", "words"),
    [
        (0, True, "at most"),
        (1, False, "behind that of"),
        (-1, None, "ahead of that of"),
    ],
)
async def test_clocks_are_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hours: int, ok: bool | None, words: str
) -> None:
    stated = formatdate(time.time() + 3_600 * hours, usegmt=True)
    async with web() as relay:
        path = "/xrpc/com.atproto.sync.subscribeRepos"
        relay.replies[path] = response(429, date=stated)
        url = relay.origin.replace("http", "ws")
        answers = await check.check(settings_for(monkeypatch, tmp_path, url, NOWHERE))
        assert answers["clock"].ok is ok
        assert words in answers["clock"].detail
        assert ("commits are refused" in answers["clock"].detail) is (ok is False)
        relay.replies[path] = response(429, date="yesterday")
        answers = await check.check(settings_for(monkeypatch, tmp_path, url, NOWHERE))
        assert "clock" not in answers


async def test_the_schema_registry_is_asked_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_for(monkeypatch, tmp_path, NOWHERE.replace("http", "ws"), NOWHERE)
    assert "registry" not in await check.check(settings)
    with scripted() as registry:
        monkeypatch.setenv("CHIVE_SCHEMA_REGISTRY__URL", registry.url)
        found = (await check.check(load()))["registry"]
        assert found.ok is True
        assert "will be registered: chive.events-value, chive.operations-value" in found.detail
        assert not registry.subjects
    found = (await check.check(load()))["registry"]
    assert (found.ok, registry.url in found.detail) == (False, True)


async def test_room_for_repositories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = settings_for(monkeypatch, tmp_path, NOWHERE.replace("http", "ws"), NOWHERE)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    room = questions._GIB * 100
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=room))
    assert (await questions.spool(settings)).ok is True
    room = questions._GIB
    found = await questions.spool(settings)
    assert found.ok is None
    assert f"{tmp_path} has 1.0 GiB; 8 repositories of 2.0 GiB at once" in found.detail
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    found = await questions.spool(settings)
    assert found.ok is False
    assert "set TMPDIR" in found.detail
