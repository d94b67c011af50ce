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
from procedures import hosts, transitions
from procedures.failures import Failure
from procedures.operations import Operation


class Registry:
    """What becomes of the commands, in the planner's transactions.

    ``searching``: repositories are searched for at all.  At most ``most`` hosts are registered.
    """

    def __init__(self, topics: Topics, *, most: int, searching: bool, allow_loopback: bool) -> None:
        self._lane = topics.partitions
        self._most = most
        self._searching = searching
        self._loopback = allow_loopback

    async def register(
        self, connection: Connection, operation: Operation, host: str, now: float
    ) -> None:
        """Open the search at ``host`` as ``operation``; end it where there is nothing to search."""
        source = hosts.origin(host)
        refusal = await self._refusal(connection, host)
        if refusal is not None:
            ended = transitions.fail(operation, now, *refusal)
            await searches.save_operations(connection, [ended])
            return
        begun = transitions.start(operation, max(now, operation.run_after))
        if await searches.is_known(connection, source):
            await searches.save_operations(connection, [transitions.complete(begun, now)])
            return
        await searches.save_operations(connection, [begun])
        epoch = await searches.epoch(connection)
        search = rules_of_discovery.opened(source, EVERYTHING, epoch, now, REGISTERED)
        await searches.put(connection, replace(search, operation=operation.id))

    async def _refusal(self, connection: Connection, host: str) -> tuple[Failure, str] | None:
        if not self._searching:
            return Failure.OUT_OF_SCOPE, "repositories are not searched for: see scope.repos"
        if hosts.is_local(host) and not self._loopback:
            return Failure.HOST_FORBIDDEN, f"{host} is this machine"
        known = await searches.is_known(connection, hosts.origin(host))
        if not known and await searches.places_taken(connection) >= self._most:
            detail = f"{self._most:,} hosts are registered: see discovery.registered_hosts"
            return Failure.OUT_OF_SCOPE, detail
        return None

    async def open_again(self, connection: Connection, now: float) -> None:
        """Open the searches that are due again, each as an operation of its own."""
        for known in await searches.registered(connection) if self._searching else ():
            again = rules_of_discovery.registered_again(known, now)
            if again is not None:
                reason = f"host={known.source.partition('://')[2]}"
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
