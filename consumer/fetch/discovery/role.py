"""Discovery as a task: wires searches and found repositories to HTTP and Postgres."""

from __future__ import annotations

import asyncio

from consumer.config.settings import Settings
from consumer.fetch.account import Accounts
from consumer.fetch.checks import Checker
from consumer.fetch.discovery.feeder import Feeder
from consumer.fetch.discovery.findings import Findings
from consumer.fetch.discovery.planner import Planner
from consumer.fetch.discovery.reader import Reader
from consumer.fetch.discovery.sources import search_rules, sources_of
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.fetch.listings import Listings, origin_of
from consumer.fetch.sweep import Sweeper
from consumer.kafka.topics import Topics
from consumer.scope import History, Scope
from consumer.state.discovery import SearchRules
from consumer.store.database import Database

_PAGE_SECONDS = 30.0


async def discover(
    settings: Settings,
    scope: Scope,
    topics: Topics,
    database: Database,
    stop: asyncio.Event,
    rules: SearchRules | None = None,
) -> None:
    """Search until ``stop`` is set.  Raises ``Transient`` when Postgres is away.

    ``rules``: others than those of the settings, for tests.
    """
    if scope.history is not History.FULL:
        await stop.wait()
        return
    hosts = Hosts.of(settings)
    loopback = settings.network.allow_loopback
    async with HttpClient.of(settings.network) as http:
        pages = Listings(http, allow_loopback=loopback, seconds=_PAGE_SECONDS)
        directory = Directory(settings.identity, http, hosts, allow_loopback=loopback)
        accounts = Accounts(directory, http, hosts, seconds=settings.identity.timeout)
        retries = settings.retries.policy()
        feeder = Feeder(settings.discovery, database, accounts, retries)
        rules = rules or search_rules(settings)
        relay = origin_of(settings.relay.url)
        planner = Planner(
            settings.discovery,
            scope,
            sources_of(settings),
            relay,
            topics,
            database,
            rules,
            allow_loopback=loopback,
        )
        findings = Findings(topics, settings.accounts.rules(), scope.shard)
        reader = Reader(settings.discovery, planner, pages, findings, relay, database, rules)
        patient = Hosts.of(settings, queue=True)
        of_documents = Directory(settings.identity, http, patient, allow_loopback=loopback)
        checker = Checker.of(settings, of_documents, http, patient)
        sweeper = Sweeper(
            settings.discovery, relay, checker, database, settings.accounts.rules(), retries
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(feeder.run(stop))
                group.create_task(reader.run(stop))
                group.create_task(sweeper.run(stop))
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
