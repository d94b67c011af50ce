"""The composition root: which roles run in this process, and everything they are made of.

Nothing else builds a role.  The order of starting is the reverse of stopping: the HTTP server
(so that a process that starts can be examined), the embedded servers, pool and topics, the roles.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path

import structlog

from consumer import compiled, metrics
from consumer.config.settings import NetworkSettings, Settings
from consumer.config.sources import CONFIG_VARIABLE, variable
from consumer.control.role import Controller
from consumer.errors import Fatal, Transient
from consumer.fetch.discovery.role import discover
from consumer.fetch.role import Fetcher
from consumer.gateway import role as gateway
from consumer.kafka.replicas import Replicas
from consumer.kafka.schema_registry import Header, SchemaRegistry
from consumer.kafka.stable import OpenTransactions
from consumer.kafka.topics import Topic
from consumer.known_collections import empty_wildcards
from consumer.lanes.publisher import Publisher
from consumer.metrics.labels import Service
from consumer.network.proxy import Proxy
from consumer.runtime import health
from consumer.runtime.children import WorkerProcesses
from consumer.runtime.health import Check, Health
from consumer.runtime.lifecycle import DRAIN_SECONDS, Root, supervise
from consumer.runtime.tasks import Stopped, first_of
from consumer.services import Say, Services, opened, scope_of, stack_of, waited_for
from consumer.state.progress import Place
from consumer.store import lanes, progress, repos, routes, status
from consumer.tail.cursor import Cursor, seconds
from consumer.tail.mirror import RelayState
from consumer.tail.tailer import Store, Tailer
from consumer.version import commit, version
from consumer.worker.lane import Resources
from consumer.worker.role import Worker

_CHILDREN_SECONDS = 5.0  # what the parent of worker processes drains longer than they do
_TRACKED_PAGE = 100_000  # DIDs that the tailer reads at once

_log = structlog.get_logger()


class Role(StrEnum):
    """What a process can do."""

    TAILER = "tailer"
    WORKER = "worker"
    FETCHER = "fetcher"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Plan:
    """What this process runs.

    ``workers``: run that many worker processes instead of the worker in this one.  ``file``:
    the settings file that they read.
    """

    settings: Settings
    roles: frozenset[Role] = frozenset(Role)
    workers: int | None = None
    file: Path | None = None


async def run(plan: Plan, stop: asyncio.Event) -> None:
    """Run until told to stop.  Raises ``Fatal`` (``RootDied``) when a root dies."""
    _introduce(plan)
    with suppress(Stopped):  # while it waits for a service
        await _serve(plan, stop)
    _log.info("process_stopped")


async def _serve(plan: Plan, stop: asyncio.Event) -> None:
    state = Health(plan.settings.http.ready_lag)
    async with (
        health.serving(health.application(state), plan.settings.http) as server,
        stack_of(plan.settings, stop) as settings,
        opened(settings, stop, state.waiting) as services,
    ):
        if Role.WORKER in plan.roles and not plan.workers:
            note = partial(_note_routes, services)
            await waited_for(Service.POSTGRES, note, stop, state.waiting)
        # A gateway by itself has no right to read more.
        only = (Topic.CONTROL,) if plan.roles == {Role.GATEWAY} else ()
        transactions = OpenTransactions(services.client, services.topics, *only)
        schemas = await _schemas(plan, services, stop, state.waiting)
        roots = _roots(replace(plan, settings=settings), services, state, schemas)
        roots["transactions"] = transactions.run
        replicas = Replicas(services.client, services.topics)
        roots["replicas"] = replicas.run
        checks = _checks(plan, services)
        checks |= {"transactions": transactions.check, "replicas": replicas.check}
        state.expect(checks, roots)
        _log.info("process_running", roots=sorted(str(root) for root in roots))
        drain = DRAIN_SECONDS + (_CHILDREN_SECONDS if plan.workers else 0.0)
        await supervise({**roots, "http": _watching(server, state)}, stop, drain)


async def _note_routes(services: Services) -> None:
    """Keep the routes of events, and say it while the topics do not hold what they say."""
    async with services.database.transaction() as connection:
        changed = await routes.note(connection, services.settings.kafka.routes)
    if changed is not None:
        _log.warning(
            "routes_changed",
            since=changed.isoformat(timespec="seconds"),
            meaning="records that were published before are in the topics of then; run "
            "'consumer sync --all --emit-all' (docs/consumers.md, 'Routing')",
        )


def _introduce(plan: Plan) -> None:
    settings = plan.settings
    metrics.BUILD.labels(version(), commit(), compiled.FORM, settings.scope.shard).set(1)
    _log.info(
        "process_starting",
        version=version(),
        commit=commit(),
        core=compiled.FORM,
        pid=os.getpid(),
        roles=sorted(role.value for role in plan.roles),
        relay=settings.relay.url,
        kafka=settings.kafka.bootstrap_servers or f"embedded in {settings.data_dir}",
        collections=settings.scope.collections,
        shard=settings.scope.shard,
    )
    known = settings.discovery.known_collections
    for wildcard in empty_wildcards(scope_of(settings), known):
        _log.warning(
            "wildcard_empty",
            wildcard=wildcard,
            meaning="no collection is known of it: repositories that hold its records already "
            "are not found; name them in discovery.known_collections",
        )
    if settings.network.allow_loopback:
        _log.warning(
            "loopback_allowed", meaning="requests may go to this machine; for development only"
        )
    _introduce_proxy(settings.network)


def _introduce_proxy(settings: NetworkSettings) -> None:
    proxy = Proxy.of(settings)
    if proxy is None:
        return
    _log.info("proxy_used", proxy=str(proxy), resolves=proxy.resolves)
    if proxy.resolves:
        _log.warning(
            "proxy_resolves_names",
            proxy=str(proxy),
            meaning="hosts whose names lead into private networks are not refused here; the proxy "
            "has to refuse them",
        )


async def _schemas(
    plan: Plan, services: Services, stop: asyncio.Event, say: Say
) -> Mapping[Topic, Header]:
    """Register the schemas of what this process publishes, if there is a registry."""
    if not plan.roles & {Role.WORKER, Role.FETCHER}:
        return {}
    registry = SchemaRegistry(services.settings.schema_registry)
    return await waited_for(
        Service.SCHEMA_REGISTRY, lambda: registry.register(services.topics), stop, say
    )


def _roots(
    plan: Plan, services: Services, state: Health, schemas: Mapping[Topic, Header]
) -> dict[str, Root]:
    roots: dict[str, Root] = {}
    publisher = Publisher(services.client, services.topics, services.database, schemas=schemas)
    if Role.TAILER in plan.roles:
        roots[Role.TAILER] = lambda stop: _tailer(services).run(stop)
    if Role.FETCHER in plan.roles:
        roots[Role.FETCHER] = lambda stop: _fetcher(services).run(stop)
        roots["controller"] = lambda stop: _controller(services, publisher).run(stop)
        roots["discovery"] = lambda stop: _discovery(services, stop)
    if Role.GATEWAY in plan.roles:
        routes = health.application(state).routes
        roots[Role.GATEWAY] = lambda stop: gateway.serve(services, routes, stop)
    if Role.WORKER in plan.roles:
        if plan.workers:
            roots["workers"] = _worker_processes(plan, plan.workers).run
        else:
            roots[Role.WORKER] = lambda stop: _worker(services, publisher).run(stop)
    return roots


def _tailer(services: Services) -> Tailer:
    database, settings = services.database, services.settings

    async def tracked() -> AsyncIterator[Sequence[str]]:
        page: Sequence[str] = [""]
        while page:
            async with database.transaction() as connection:
                page = await repos.dids(connection, page[-1], _TRACKED_PAGE)
            yield page

    async def joined(seconds: float) -> set[str]:
        async with database.transaction() as connection:
            return await repos.joined(connection, seconds)

    async def consumed() -> Mapping[int, int]:
        async with database.transaction() as connection:
            return {lane.lane: lane.firehose_offset for lane in await lanes.read_all(connection)}

    async def mirror(relay: str, cursor: Cursor) -> None:
        async with database.transaction() as connection:
            unix = seconds(cursor.time)
            time = None if unix is None else datetime.fromtimestamp(unix, UTC)
            place = Place(cursor.epoch, cursor.seq)
            async with connection.together():
                await status.mirror_cursor(connection, relay, cursor.seq, time, cursor.epoch)
                await progress.note_received(
                    connection, relay, place, unix, cursor.as_of, cursor.last
                )

    async def report(relay: str, state: RelayState) -> None:
        async with database.transaction() as connection:
            since = datetime.fromtimestamp(state.since, UTC)
            await status.note_connection(
                connection, relay, since, connected=state.connected, reason=state.reason
            )

    return Tailer(
        settings.relay,
        scope_of(settings),
        services.client,
        services.topics,
        Store(tracked, joined, consumed, mirror, report),
        frame_limit=settings.limits.frame,
        proxy=Proxy.of(settings.network),
    )


def _worker(services: Services, publisher: Publisher) -> Worker:
    settings = services.settings
    return Worker(
        Resources(
            settings,
            services.client,
            services.topics,
            services.database,
            publisher,
            scope_of(settings),
        )
    )


def _fetcher(services: Services) -> Fetcher:
    settings = services.settings
    return Fetcher(
        settings, services.client, services.topics, services.database, scope_of(settings)
    )


def _controller(services: Services, publisher: Publisher) -> Controller:
    settings = services.settings
    return Controller(
        services.client,
        services.topics,
        services.database,
        publisher,
        scope_of(settings),
        forget_after=settings.operations.history,
        retries=settings.retries.policy(),
    )


async def _discovery(services: Services, stop: asyncio.Event) -> None:
    settings = services.settings
    await discover(settings, scope_of(settings), services.topics, services.database, stop)


def _worker_processes(plan: Plan, count: int) -> WorkerProcesses:
    program = [sys.executable, "-m", "consumer", "run", "--role", Role.WORKER]
    return WorkerProcesses(program, [_inherited(plan, n) for n in range(1, count + 1)])


def _inherited(plan: Plan, number: int) -> dict[str, str]:
    """Return the variables that give a worker process this one's settings and servers."""
    settings = plan.settings
    if settings.postgres.dsn is None or settings.kafka.bootstrap_servers is None:
        raise Fatal("worker processes need kafka.bootstrap_servers and postgres.dsn")
    port = settings.http.port
    inherited = {
        ("kafka", "bootstrap_servers"): settings.kafka.bootstrap_servers,
        ("relay", "url"): settings.relay.url,
        ("data_dir",): str(settings.data_dir.absolute()),
        ("http", "port"): str(port + number if port else 0),
    }
    if settings.postgres.dsn_file is None:  # else the child reads the same file
        inherited["postgres", "dsn"] = settings.postgres.dsn.get_secret_value()
    file = {CONFIG_VARIABLE: str(plan.file.absolute())} if plan.file else {}
    return {variable(key): value for key, value in inherited.items()} | file


def _checks(plan: Plan, services: Services) -> dict[str, Check]:
    checks: dict[str, Check] = {
        "kafka": services.kafka_answers,
        "postgres": services.database.ping,
    }
    groups = {Role.TAILER: "tailer", Role.FETCHER: "controller"}
    if not plan.workers:
        groups[Role.WORKER] = "worker"
    if joined := [groups[role] for role in sorted(plan.roles & groups.keys())]:
        checks["groups"] = partial(_at_work, joined)
    if Role.TAILER in plan.roles:
        checks["relay"] = _relay_connected
    return checks


async def _at_work(groups: Sequence[str]) -> None:
    """Raise ``Transient`` if this process neither has work of ``groups`` nor knows who has it."""
    joined = metrics.by_label(metrics.GROUP_JOINED)
    if unknown := [group for group in groups if joined[group] != 1]:
        raise Transient(f"Kafka has not said yet who has the work of: {', '.join(unknown)}")
    assigned = metrics.by_label(metrics.GROUP_PARTITIONS)["worker"]
    working = len(metrics.WORKER_LAG.read(time.time()))
    if "worker" in groups and working < assigned:
        raise Transient(f"{assigned - working:g} of {assigned:g} lanes are not worked on yet")


async def _relay_connected() -> None:
    """Raise ``Transient`` if this process is the tailer and is not connected."""
    if metrics.by_label(metrics.TAIL_ACTIVE).get("") != 1:
        return
    if metrics.by_label(metrics.TAIL_CONNECTED).get("") != 1:
        raise Transient("not connected to the relay")


def _watching(server: asyncio.Task[None], state: Health) -> Root:
    async def watch(stop: asyncio.Event) -> None:
        await first_of(asyncio.wait({server}), state.beat(), stop.wait())
        if not stop.is_set():
            raise Fatal("the HTTP server ended")

    return watch
