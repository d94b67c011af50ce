"""What ``consumer check`` asks: each question in the way in which it will matter later.

A question returns a ``CheckResult``: well, failed, or a note (``ok`` is None).  What is not well
says what to do.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus

from consumer.cli.report import ROUTES_CHANGED
from consumer.config.settings import Settings
from consumer.errors import ChiveError, Transient
from consumer.fetch import documents
from consumer.fetch.discovery.sources import sources_of
from consumer.fetch.http import HttpClient
from consumer.fetch.listings import Listings
from consumer.fetch.repos import LARGE_AT_ONCE, LARGE_BYTES
from consumer.kafka import permissions, rights
from consumer.kafka.client import Client
from consumer.kafka.provision import rehearse
from consumer.kafka.replicas import shortages
from consumer.kafka.schema_registry import SchemaRegistry
from consumer.kafka.topics import Topics
from consumer.known_collections import empty_wildcards
from consumer.network.proxy import Proxy, ProxyFailed
from consumer.printable import escape
from consumer.scope import Scope
from consumer.services import kafka_of
from consumer.state.discovery import AnswerKind, listings
from consumer.store.database import Database
from consumer.tail.outcomes import classify
from consumer.tail.subscription import subscribe

_SECONDS = 15.0
_COORDINATOR_SECONDS = 5.0  # for those of a new cluster to appear
_SOURCE_SECONDS = 4.0  # of each source of listings
_CLOCK_SECONDS = 5.0
_DATE_SECONDS = 0.5  # a Date header is that much earlier on average
_BUSY = frozenset({429, 503})
_KNOWN = frozenset({200, 404, 410})  # what a directory answers to a DID
_NOBODY = "did:plc:" + "a" * 24
_INDEX_BYTES = 6 * 1024**3 // 10  # of the blocks of the largest repository (SECURITY.md)
_GIB = 1024**3


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Whether a server answered (None: it was not asked), and after how many seconds."""

    ok: bool | None
    detail: str
    seconds: float = 0.0


@dataclass(slots=True)
class Clocks:
    """By how many seconds the clocks of servers are before ours."""

    ahead: dict[str, float] = field(default_factory=dict)

    def note(self, server: str, theirs: float, began: float) -> None:
        """Note the time of ``server``, asked since ``began``; both in Unix seconds."""
        self.ahead[server] = theirs - (began + time.time()) / 2

    def note_date(self, server: str, headers: Headers, began: float) -> None:
        """Note the time of an HTTP answer, if it has one."""
        try:
            stated = parsedate_to_datetime(headers["Date"]).timestamp() + _DATE_SECONDS
        except (KeyError, ValueError):  # several of them are no time either
            return
        self.note(server, stated, began)

    def result(self, rev_ahead: float) -> CheckResult | None:
        """Return whether they agree; None if no server has said what time it is.

        ``rev_ahead``: seconds after which commits count as from the future.
        """
        if not self.ahead:
            return None
        server, ahead = max(self.ahead.items(), key=lambda each: abs(each[1]))
        if abs(ahead) <= _CLOCK_SECONDS:
            return CheckResult(True, f"at most {abs(ahead):.1f} s from {', '.join(self.ahead)}")
        detail = (
            f"this clock is {abs(ahead):.1f} s {'behind' if ahead > 0 else 'ahead of'} that of "
            f"{server}: synchronize both by NTP"
        )
        late = max((s for name, s in self.ahead.items() if name != POSTGRES), default=0.0)
        if late > rev_ahead:
            return CheckResult(False, f"{detail}; commits are refused as from the future")
        return CheckResult(None, detail)


POSTGRES = "PostgreSQL"


async def ask(question: Callable[[], Awaitable[CheckResult]]) -> CheckResult:
    """Return the answer, or what kept it from coming."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            result = await question()
    except TimeoutError:
        result = CheckResult(False, f"no answer in {_SECONDS:g} s")
    except ChiveError as error:
        result = CheckResult(False, str(error))
    return CheckResult(result.ok, escape(result.detail), round(time.monotonic() - began, 3))


async def kafka(settings: Settings) -> CheckResult:
    """Ask for the cluster and its coordinators."""
    client = Client(settings.kafka)
    cluster = await client.cluster_id()
    await client.require_coordinators(_COORDINATOR_SECONDS)
    return CheckResult(True, f"{settings.kafka.bootstrap_servers}, cluster {cluster}")


async def topics(settings: Settings) -> CheckResult:
    """Compare the topics with what they must be, without making any."""
    client, topics = kafka_of(settings)
    found = await rehearse(client, topics)
    if short := await shortages(client, topics):
        raise Transient("; ".join(short))
    created = [f"will be created: {found.names}"] if found.missing else []
    return CheckResult(True, "; ".join([*created, *found.advice]) or "as they are advised")


async def kafka_rights(settings: Settings) -> CheckResult:
    """Ask for every right that a process with all roles needs."""
    client, topics = kafka_of(settings)
    wanted = [
        right
        for right in rights.rights(topics, create=settings.kafka.create_topics, readers="")
        if right.party is rights.Party.CONSUMER
    ]
    await client.require_coordinators(_COORDINATOR_SECONDS)
    if lacking := await permissions.lacking(client, wanted):
        helps = "'consumer topics --as acls' prints all rights"
        return CheckResult(False, f"not allowed: {'; '.join(lacking)}: {helps}")
    return CheckResult(True, "topics, groups and transactional ids may be used")


async def postgres(settings: Settings, clocks: Clocks) -> CheckResult:
    """Ask for the server and its version."""
    database = Database(settings.postgres, settings.kafka.topic_prefix)
    began = time.time()
    server, now = await database.server()
    clocks.note(POSTGRES, now, began)
    return CheckResult(True, server)


async def postgres_rights(settings: Settings) -> CheckResult:
    """Ask what the role may do with the tables."""
    database = Database(settings.postgres, settings.kafka.topic_prefix)
    if lacking := await database.lacking():
        return CheckResult(False, "; ".join(lacking))
    return CheckResult(True, f"schema {database.schema} can be read and written")


async def routes(settings: Settings) -> CheckResult:
    """Ask whether the topics of events hold what the routes say."""
    database = Database(settings.postgres, settings.kafka.topic_prefix)
    found = await database.routes()
    topics = Topics.of(settings.kafka).event_topics
    if found is None or (found.changed_at is None and found.routes == settings.kafka.routes):
        return CheckResult(True, f"events go to {', '.join(topics)}")
    when = "will change at the next start" if found.changed_at is None else "have changed"
    return CheckResult(None, f"they {when}: {ROUTES_CHANGED}")


async def shard(settings: Settings) -> CheckResult:
    """Ask which accounts the tables have."""
    mine = settings.scope.shard
    theirs = await Database(settings.postgres, settings.kafka.topic_prefix).shard()
    if theirs not in (None, mine):
        detail = f"scope.shard is {mine}, the tables have {theirs}: no process will start"
        return CheckResult(False, f"{detail} (docs/scaling.md)")
    return CheckResult(True, f"{mine} of all accounts")


async def schema_registry(settings: Settings) -> CheckResult:
    """Ask the schema registry for its subjects, without registering any."""
    registry = SchemaRegistry(settings.schema_registry)
    missing = await registry.unregistered(Topics.of(settings.kafka))
    will = f", will be registered: {', '.join(missing)}" if missing else ""
    return CheckResult(True, f"{settings.schema_registry.url}{will}")


async def proxy(proxy: Proxy) -> CheckResult:
    """Connect to the proxy."""
    await proxy.reach()
    if proxy.resolves:
        detail = f"{proxy} resolves names: it alone can refuse those of private networks"
        return CheckResult(True, detail)
    return CheckResult(True, f"{proxy}, asked for addresses")


async def relay(settings: Settings, clocks: Clocks, url: str) -> CheckResult:
    """Connect to the relay as the tailer does."""
    began = time.time()
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
    except InvalidStatus as error:
        clocks.note_date(url, error.response.headers, began)
        if error.response.status_code not in _BUSY:
            raise Transient(f"{url}: {classify(error, time.time()).detail}") from error
        detail = f"{url} answers HTTP {error.response.status_code}: it is there, and refuses "
        return CheckResult(True, detail + "one more connection from here while a process reads it")
    except Exception as error:
        raise Transient(f"{url}: {classify(error, time.time()).detail}") from error
    if connection.response is not None:
        clocks.note_date(url, connection.response.headers, began)
    return CheckResult(True, url)


async def directory(settings: Settings) -> CheckResult:
    """Ask the PLC directory for a DID that it does not have."""
    origin = settings.identity.plc_url
    loopback = settings.network.allow_loopback
    url = documents.url_of(_NOBODY, origin, allow_loopback=loopback)
    limit, seconds = settings.identity.document_limit, settings.identity.timeout
    try:
        async with HttpClient.of(settings.network) as http:
            response = await http.get(url, limit=limit, seconds=seconds)
    except ChiveError as error:
        if isinstance(error.__cause__, ProxyFailed):
            raise
        return CheckResult(False, f"{error}: is identity.plc_url right?")
    if response.status not in _KNOWN:
        detail = f"status {response.status} from {url}: is identity.plc_url right?"
        return CheckResult(False, detail)
    return CheckResult(True, origin)


async def sources(settings: Settings) -> CheckResult:
    """Ask the sources in turn for the first listing, until one serves it."""
    words: list[str] = []
    scope = Scope(settings.scope.collections, settings.scope.repos)
    listing = listings(scope, settings.discovery.known_collections)[:1]
    try:
        async with asyncio.timeout(_SECONDS - 1), HttpClient.of(settings.network) as http:
            loopback = settings.network.allow_loopback
            pages = Listings(http, allow_loopback=loopback, seconds=_SOURCE_SECONDS)
            for source in sources_of(settings) if listing else ():
                answer, _ = await pages.ask(source, listing[0], None, 1)
                if answer.kind is AnswerKind.PAGE:
                    before = f" ({'; '.join(words)})" if words else ""
                    return CheckResult(True, f"{source} serves {listing[0]}{before}")
                words.append(f"{source} does not: {answer.detail}")
    except TimeoutError:
        words.append(f"no answer in {_SECONDS:g} s")
    what = f"no source serves {listing[0]}" if listing else "no listing names these collections"
    detail = f"repositories that write nothing new are not found: {what}; {'; '.join(words)}"
    return CheckResult(None, detail)


async def spool(settings: Settings) -> CheckResult:
    """Compare the room for repositories on their way with what the largest ones may take."""
    folder = Path(tempfile.gettempdir())
    large, limit = min(settings.fetch.syncs, LARGE_AT_ONCE), settings.limits.repo
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        detail = f"{folder} cannot be written to ({error}): set TMPDIR to a place for repositories"
        return CheckResult(False, detail)
    needed = large * (limit + _INDEX_BYTES) + settings.fetch.syncs * LARGE_BYTES
    room = f"{folder} has {free / _GIB:.1f} GiB"
    if free < needed:
        detail = (
            f"{room}; {large} repositories of {limit / _GIB:.1f} GiB at once may take "
            f"{needed / _GIB:.1f}: set TMPDIR to a larger place, or lower fetch.syncs or "
            "limits.repo"
        )
        return CheckResult(None, detail)
    return CheckResult(True, f"{room}, {needed / _GIB:.1f} may be needed")


def wildcards(settings: Settings) -> CheckResult | None:
    """Name the wildcards that stand for no known collection; None if there are none."""
    scope = Scope(settings.scope.collections)
    empty = empty_wildcards(scope, settings.discovery.known_collections)
    if not empty:
        return None
    detail = f"{', '.join(empty)} finds no accounts: set discovery.known_collections"
    return CheckResult(None, detail)
