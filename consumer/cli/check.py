"""``consumer check``: the effective settings; whether Kafka, Postgres, relay and listings answer.

Each is asked in the way in which it will be used.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import click
import tomli_w
import uvloop

from consumer.cli.options import briefly, with_settings
from consumer.cli.output import FAILED, print_json
from consumer.config.settings import Settings
from consumer.config.sources import dump
from consumer.embedded import running
from consumer.errors import ChiveError, Transient
from consumer.fetch.discovery.sources import sources_of
from consumer.fetch.http import HttpClient
from consumer.fetch.listings import Listings
from consumer.kafka.client import Client
from consumer.kafka.provision import rehearse
from consumer.kafka.replicas import shortages
from consumer.known_collections import empty_wildcards
from consumer.network.proxy import Proxy
from consumer.printable import escape
from consumer.scope import History, Repos, Scope
from consumer.services import at, is_embedded, kafka_of
from consumer.state.discovery import AnswerKind, listings
from consumer.store.database import Database
from consumer.tail.outcomes import classify
from consumer.tail.subscription import subscribe

_SECONDS = 15.0
_COORDINATOR_SECONDS = 5.0  # for those of a new cluster to appear
_SOURCE_SECONDS = 4.0  # of each source of listings


@click.command("check")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="JSON instead of TOML.")
def check_command(settings: Settings, *, as_json: bool) -> None:
    """Show the effective settings; ask whether all can be reached.

    Secrets are masked.
    """
    answers = uvloop.run(check(briefly(settings)))
    if as_json:
        print_json(to_json(settings, answers))
    else:
        click.echo(to_toml(settings, answers))
    if any(answer.ok is False for answer in answers.values()):
        sys.exit(FAILED)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a server answered (None: it was not asked), and after how many seconds."""

    ok: bool | None
    detail: str
    seconds: float = 0.0


async def check(settings: Settings) -> dict[str, CheckResult]:
    """Ask all at once."""
    asked = {
        f"relay {url}" if number else "relay": _ask(partial(_relay, settings, url))
        for number, url in enumerate(settings.relay.relays)
    }
    if (proxy := Proxy.of(settings.network)) is not None:
        asked["proxy"] = _ask(partial(_proxy, proxy))
    if settings.scope.history is History.FULL and settings.scope.repos is not Repos.LISTED:
        asked["discovery"] = _sources(settings)
    if is_embedded(settings) and (found := running(settings.data_dir)) is None:
        idle = CheckResult(None, f"embedded, not running; 'run' starts it in {settings.data_dir}")
        servers = {"kafka": idle, "postgres": idle}
    else:
        servers = {}
        if is_embedded(settings) and found is not None:
            settings = at(settings, found.bootstrap_servers, found.dsn)
        asked |= {
            "kafka": _ask(lambda: _kafka(settings)),
            "topics": _ask(lambda: _topics(settings)),
            "postgres": _ask(lambda: _postgres(settings)),
        }
    answers = await asyncio.gather(*asked.values())
    if (wildcards := _wildcards(settings)) is not None:
        servers = servers | {"scope": wildcards}
    return servers | dict(zip(asked, answers, strict=True))


def _wildcards(settings: Settings) -> CheckResult | None:
    """Name the wildcards that stand for no known collection; None if there are none."""
    scope = Scope(settings.scope.collections)
    empty = empty_wildcards(scope, settings.discovery.known_collections)
    if not empty:
        return None
    detail = f"{', '.join(empty)} finds no accounts: set discovery.known_collections"
    return CheckResult(None, detail)


async def _ask(question: Callable[[], Awaitable[str]]) -> CheckResult:
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            ok, detail = True, await question()
    except TimeoutError:
        ok, detail = False, f"no answer in {_SECONDS:g} s"
    except ChiveError as error:
        ok, detail = False, str(error)
    return CheckResult(ok, escape(detail), round(time.monotonic() - began, 3))


async def _kafka(settings: Settings) -> str:
    client = Client(settings.kafka)
    cluster = await client.cluster_id()
    await client.require_coordinators(_COORDINATOR_SECONDS)
    return f"{settings.kafka.bootstrap_servers}, cluster {cluster}"


async def _topics(settings: Settings) -> str:
    client, topics = kafka_of(settings)
    found = await rehearse(client, topics)
    if short := await shortages(client, topics):
        raise Transient("; ".join(short))
    created = [f"will be created: {found.names}"] if found.missing else []
    return "; ".join([*created, *found.advice]) or "as they are advised"


async def _postgres(settings: Settings) -> str:
    return await Database(settings.postgres, settings.kafka.topic_prefix).server()


async def _proxy(proxy: Proxy) -> str:
    await proxy.reach()
    if proxy.resolves:
        return f"{proxy} resolves names: it alone can refuse those of private networks"
    return f"{proxy}, asked for addresses"


async def _relay(settings: Settings, url: str) -> str:
    try:
        connection = await subscribe(
            url,
            None,
            limit=settings.limits.frame,
            silence=settings.relay.silence,
            proxy=Proxy.of(settings.network),
        )
        await connection.close()
    except ChiveError:
        raise
    except Exception as error:
        raise Transient(f"{url}: {classify(error, time.time()).detail}") from error
    return url


async def _sources(settings: Settings) -> CheckResult:
    """Ask the sources in turn for the first listing, until one serves it."""
    began = time.monotonic()
    words: list[str] = []
    scope = Scope(settings.scope.collections, settings.scope.repos)
    listing = listings(scope, settings.discovery.known_collections)[:1]
    loopback = settings.network.allow_loopback
    try:
        async with asyncio.timeout(_SECONDS), HttpClient.of(settings.network) as http:
            pages = Listings(http, allow_loopback=loopback, seconds=_SOURCE_SECONDS)
            for source in sources_of(settings) if listing else ():
                answer, _ = await pages.ask(source, listing[0], None, 1)
                if answer.kind is AnswerKind.PAGE:
                    before = f" ({'; '.join(words)})" if words else ""
                    detail = f"{source} serves {listing[0]}{before}"
                    return CheckResult(True, escape(detail), round(time.monotonic() - began, 3))
                words.append(f"{source} does not: {answer.detail}")
    except TimeoutError:
        words.append(f"no answer in {_SECONDS:g} s")
    what = f"no source serves {listing[0]}" if listing else "no listing names these collections"
    detail = f"repositories that write nothing new are not found: {what}; {'; '.join(words)}"
    return CheckResult(None, escape(detail), round(time.monotonic() - began, 3))


def to_toml(settings: Settings, answers: Mapping[str, CheckResult]) -> str:
    """Return the effective settings as TOML, and the answers as comments in front."""
    words = {True: "ok", False: "FAILED", None: "-"}
    lines = [f"# {name:<10}{words[a.ok]:<7}{a.detail}" for name, a in sorted(answers.items())]
    return "\n".join([*lines, "", tomli_w.dumps(_without_none(dump(settings)))])


def to_json(settings: Settings, answers: Mapping[str, CheckResult]) -> dict[str, Any]:
    """Return the same as plain values."""
    return {
        "ok": all(answer.ok is not False for answer in answers.values()),
        "checks": {name: asdict(answer) for name, answer in answers.items()},
        "settings": dump(settings),
    }


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in values.items()
        if value is not None
    }
