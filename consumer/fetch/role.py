"""The fetcher as a role: wires lookups and operations to HTTP, Kafka and Postgres."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from consumer.config.settings import Settings
from consumer.fetch import lookups, operations
from consumer.fetch.account import Accounts
from consumer.fetch.answers import Answers
from consumer.fetch.attempts import Attempts
from consumer.fetch.checks import Checker
from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient
from consumer.fetch.identity import Directory
from consumer.fetch.inject import Injector
from consumer.fetch.leasing import LeasingLoop
from consumer.fetch.lookups import LookupPool
from consumer.fetch.operations import OperationPool
from consumer.fetch.repos import RepoSource
from consumer.kafka.client import Client
from consumer.kafka.topics import Topics
from consumer.kafka.writer import Writer
from consumer.runtime.lifecycle import persistently
from consumer.runtime.logs import Outage
from consumer.scope import Scope
from consumer.store.database import Database
from procedures.operations import Type

_log = structlog.get_logger()


class Fetcher:
    """The role; any number of fetchers may run."""

    def __init__(
        self,
        settings: Settings,
        client: Client,
        topics: Topics,
        database: Database,
        scope: Scope,
    ) -> None:
        self._settings = settings
        self._client = client
        self._topics = topics
        self._database = database
        self._scope = scope
        self._retries = settings.retries.policy()

    async def run(self, stop: asyncio.Event) -> None:
        """Answer lookups and carry out operations until told to stop.

        Waits for services that are away.  Raises ``Fatal``.
        """
        settings = self._settings
        loopback = settings.network.allow_loopback
        hosts = Hosts.of(settings)
        async with HttpClient.of(settings.network) as http:
            directory = Directory(settings.identity, http, hosts, allow_loopback=loopback)
            accounts = Accounts(directory, http, hosts, seconds=settings.identity.timeout)
            answers = Answers(directory, accounts, self._retries)
            outage = Outage(_log, "plc_directory")
            checker = Checker.of(settings, directory, http, hosts)
            source = RepoSource(http, hosts, settings.limits, settings.fetch)
            look_up = partial(self._look_up, answers, outage)
            operate = partial(self._operate, hosts, directory, source, accounts, checker)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(persistently("lookups", look_up, stop))
                    group.create_task(persistently("operations", operate, stop))
            except BaseExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def _look_up(self, answers: Answers, outage: Outage, stop: asyncio.Event) -> None:
        async with await Writer.open(self._client) as writer:
            database, retries = self._database, self._retries
            lease = self._settings.fetch.lease
            pool = LookupPool(writer, self._topics, database, answers, outage, retries, lease)
            await LeasingLoop(database, pool, lookups.RULES, pool.extend).run(stop)

    async def _operate(
        self,
        hosts: Hosts,
        directory: Directory,
        source: RepoSource,
        accounts: Accounts,
        checker: Checker,
        stop: asyncio.Event,
    ) -> None:
        settings, database = self._settings.fetch, self._database
        slots = {
            Type.FORGET: 1,
            Type.RECORD_REFRESH: settings.refreshes,
            Type.DID_SYNC: settings.syncs,
        }
        async with await Writer.open(self._client) as writer:
            injector = Injector(writer, self._topics, database, settings.injected_bytes)
            rules = self._settings.accounts.rules()
            attempts = Attempts(
                directory, source, injector, database, self._scope, accounts, rules, checker
            )
            pool = OperationPool(
                attempts, database, hosts, slots, self._retries, rules, settings.lease
            )
            await LeasingLoop(database, pool, operations.RULES, pool.extend).run(stop)
