"""Hosts that commands make sources of discovery: ``registerHost`` on ``chive.control``.

A registered host is a search like those at the hosts that a relay names: the listing of all its
repositories, which count only where their documents name that host.  The search is kept in
Postgres with those of the sources.  It is opened again when it is due; one that has ended without
a page is forgotten, so that names that lead nowhere take no place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from consumer.fetch.failed import printable
from consumer.kafka.topics import Topics
from consumer.scope import EVERYTHING
from consumer.state import discovery as rules_of_discovery
from consumer.state.discovery import REGISTERED, SearchState
from consumer.store import searches
from consumer.store.database import Connection
from consumer.store.registrations import Registrations
from procedures import hosts, transitions
from procedures.failures import Failure
from procedures.operations import Operation
from procedures.register_pds import HostState


class Registry:
    """What becomes of the commands, in the planner's transactions.

    ``rules`` say which hosts are taken.
    """

    def __init__(self, topics: Topics, rules: Registrations) -> None:
        self._lane = topics.partitions
        self._rules = rules

    async def register(
        self, connection: Connection, operation: Operation, host: str, now: float
    ) -> None:
        """Open the search at ``host`` as ``operation``; end it where there is nothing to search."""
        state = await self._rules.state_of(connection, host)
        refusal = self._refusal(state, host)
        if refusal is not None:
            ended = transitions.fail(operation, now, *refusal)
            await searches.save_operations(connection, [ended])
            return
        begun = transitions.start(operation, max(now, operation.run_after))
        if state is HostState.KNOWN:
            await searches.save_operations(connection, [transitions.complete(begun, now)])
            return
        await searches.save_operations(connection, [begun])
        epoch = await searches.epoch(connection)
        search = rules_of_discovery.opened(hosts.origin(host), EVERYTHING, epoch, now, REGISTERED)
        await searches.put(connection, replace(search, operation=operation.id))

    def _refusal(self, state: HostState, host: str) -> tuple[Failure, str] | None:
        match state:
            case HostState.FORBIDDEN:
                return Failure.HOST_FORBIDDEN, f"{host} is this machine"
            case HostState.OFF:
                return Failure.OUT_OF_SCOPE, "repositories are not searched for: see scope.repos"
            case HostState.FULL:
                detail = (
                    f"{self._rules.most:,} hosts are registered: see discovery.registered_hosts"
                )
                return Failure.OUT_OF_SCOPE, detail
            case HostState.NEW | HostState.KNOWN:
                return None

    async def open_again(self, connection: Connection, now: float) -> None:
        """Open the searches that are due again, each as an operation of its own."""
        for known in await searches.registered(connection) if self._rules.searching else ():
            again = rules_of_discovery.registered_again(known, now)
            if again is not None:
                reason = hosts.subject(known.source.partition("://")[2])
                operation = await searches.begin(connection, self._lane, reason)
                await searches.put(connection, replace(again, operation=operation))

    async def conclude(
        self,
        connection: Connection,
        operation: Operation,
        ended: Sequence[tuple[str, bool, SearchState, str]],
        now: float,
    ) -> None:
        """End an operation whose search has ended, as ``searches.of_operation`` has it."""
        failed = [detail for _, _, state, detail in ended if state is not SearchState.COMPLETED]
        if failed:
            detail = printable(failed[0])
            after = transitions.fail(operation, now, Failure.HOST_ERROR, detail)
        else:
            after = transitions.complete(operation, now)
        await searches.save_operations(connection, [after])
