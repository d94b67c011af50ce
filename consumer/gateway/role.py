"""The gateway role: builds what ``procedures.gateway`` needs, and serves it over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from starlette.routing import BaseRoute

from consumer import metrics
from consumer.config.settings import GatewaySettings, HttpSettings, Settings
from consumer.control.topic import ControlTopic
from consumer.errors import Fatal
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.gateway.firehose import StoredFirehose
from consumer.gateway.index import StoredIndex
from consumer.gateway.keys import Keys
from consumer.gateway.known_hosts import StoredHosts
from consumer.gateway.letters import StoredLetters
from consumer.runtime import health
from consumer.runtime.lifecycle import persistently
from consumer.runtime.tasks import first_of, wait_for_stop
from consumer.services import Services, scope_of
from consumer.store.operations.history import Changes, History
from consumer.store.replays import StoredReplays
from procedures.auth import ServiceAuth
from procedures.calls import Calls, Ports
from procedures.contract import METHODS
from procedures.gateway import (
    BY_ADDRESS,
    BY_ADMIN,
    BY_ISSUER,
    Gateway,
    GatewayLimits,
    create_app,
)
from procedures.service import Service

_SWEEP_SECONDS = 30.0

_log = structlog.get_logger()


async def serve(services: Services, routes: Sequence[BaseRoute], stop: asyncio.Event) -> None:
    """Serve XRPC and ``routes`` until told to stop.  Raises ``Fatal`` when the server ends."""
    settings = services.settings
    did = settings.gateway.service_did
    service = None if did is None else Service(did, _fragments(settings.gateway))
    if service is None:
        _log.warning("service_did_missing", meaning="every XRPC call is refused")
    loopback = settings.network.allow_loopback
    hosts = Hosts.of(settings)
    changes = Changes(services.database)
    async with (
        HttpClient.of(settings.network) as http,
        ControlTopic.opened(services.client, services.topics) as control,
    ):
        directory = Directory(settings.identity, http, hosts, allow_loopback=loopback)
        admins = frozenset(settings.gateway.admins)
        scope = scope_of(settings)
        keys = Keys(directory.document, settings.identity.refresh_interval)
        auth = ServiceAuth(
            keys,
            frozenset() if service is None else service.audiences,
            admins,
        )
        ports = Ports(
            commands=control,
            operations=History(services.database, changes),
            hosts=StoredHosts(settings, scope, services.database),
            index=StoredIndex(services.database),
            firehose=StoredFirehose(services.database),
            letters=StoredLetters(services.client, services.topics),
            elsewhere=scope.shard.elsewhere,
        )
        calls = Calls(ports, admins)
        replays = StoredReplays(services.database)
        gateway = Gateway(
            auth,
            calls,
            replays,
            service,
            _limits(settings.gateway),
            _observe,
            token_reuse=settings.gateway.token_reuse,
        )
        async with health.serving(
            create_app(gateway, routes),
            _address(settings),
            name="gateway",
            proxies=[str(network) for network in settings.gateway.trusted_proxies],
        ) as server:
            listening = persistently("changes", changes.run, stop)
            sweeping = persistently("requests", lambda stop: _sweep(replays, stop), stop)
            await first_of(asyncio.wait([server]), listening, sweeping, stop.wait())
            if not stop.is_set():
                raise Fatal("the gateway's server ended")


async def _sweep(replays: StoredReplays, stop: asyncio.Event) -> None:
    """Forget expired requests now and then, until told to stop.  Raises ``Transient``."""
    while not await wait_for_stop(stop, _SWEEP_SECONDS):
        await replays.sweep()


def _fragments(settings: GatewaySettings) -> tuple[str, ...]:
    names = (*settings.fragments, *filter(None, [settings.fragment]))
    return tuple(dict.fromkeys(names))


def _limits(settings: GatewaySettings) -> GatewayLimits:
    return GatewayLimits(
        deadline=settings.deadline,
        by_address=BY_ADDRESS.at(settings.address_rate),
        by_issuer=BY_ISSUER.at(settings.account_rate),
        by_admin=BY_ADMIN.at(settings.admin_rate),
    )


def _address(settings: Settings) -> HttpSettings:
    host, _, port = settings.gateway.bind.rpartition(":")
    return settings.http.model_copy(update={"host": host.strip("[]"), "port": int(port)})


def _observe(method: str, status: int, seconds: float) -> None:
    name = method if method in METHODS else metrics.OTHER_METHOD
    metrics.CALLS.labels(name, f"{status // 100}xx").inc()
    metrics.CALL_SECONDS.labels(name).observe(seconds)
