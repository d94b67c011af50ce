"""Opens searches, and ends the operations that show them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from consumer import metrics
from consumer.config.settings import DiscoverySettings
from consumer.fetch.discovery.registry import Registry
from consumer.fetch.discovery.search_log import UnservedLog
from consumer.fetch.failed import printable
from consumer.kafka.topics import Topics
from consumer.runtime.tasks import wait_for_stop
from consumer.scope import EVERYTHING, Repos, Scope
from consumer.state import discovery as rules_of_discovery
from consumer.state.discovery import HOSTS, SWEEP, SearchRules, SearchState, listings
from consumer.state.sweep import Way
from consumer.store import found, searches, snapshots, sweep
from consumer.store.database import Connection, Database
from consumer.store.registrations import Registrations
from procedures import hosts, transitions
from procedures.failures import Failure
from procedures.operations import Operation, Status

_FIRST_EPOCH_SECONDS = 10.0  # for the tailer to connect at the first start


class Planner:
    """Decides which searches are open: by the scope, the sources, the time and commands."""

    def __init__(
        self,
        settings: DiscoverySettings,
        scope: Scope,
        sources: Sequence[str],
        relay: str,
        topics: Topics,
        database: Database,
        rules: SearchRules,
        *,
        allow_loopback: bool,
    ) -> None:
        self._settings = settings
        self._sources = sources
        self._relay = relay
        self._topics = topics
        self._database = database
        self._rules = rules
        self._scope = scope
        self._wanted = listings(scope, settings.known_collections)
        self._registry = Registry(
            topics,
            Registrations(
                most=settings.registered_hosts,
                searching=bool(self._wanted),
                allow_loopback=allow_loopback,
            ),
        )
        self._searched = False
        self._unserved = UnservedLog(sources)

    async def begin(self, stop: asyncio.Event) -> None:
        """Forget what is not wanted any more, and wait for the relay's first epoch for a while.

        A search that begins before the firehose has to be repeated: who writes in between is in
        neither.
        """
        all_of_them = [EVERYTHING] if HOSTS in self._wanted else []
        kept = [*self._wanted, *all_of_them, SWEEP]
        sources = list(dict.fromkeys([*self._sources, self._relay]))
        async with self._database.transaction() as connection:
            await searches.one_by_one(connection)
            await searches.forget(
                connection,
                kept,
                sources,
                hosts=HOSTS in self._wanted,
                registered=bool(self._wanted),
            )
            await self._note_named(connection)
            await snapshots.begin(connection, self._scope.extent)
        until = time.monotonic() + _FIRST_EPOCH_SECONDS
        while time.monotonic() < until:
            async with self._database.transaction() as connection:
                if await searches.epoch(connection):
                    return
            if await wait_for_stop(stop, 0.5):
                return

    async def plan(self) -> None:
        """Open what is due, and end the operations whose searches have all ended."""
        now = time.time()
        async with self._database.transaction() as connection:
            await searches.one_by_one(connection)
            for search in await searches.unwatched(connection):
                ended = rules_of_discovery.cancelled(search, now, self._rules)
                await searches.put(connection, ended)
            operations = await searches.operations(connection)
            await self._ask_for(connection, operations, now)
            await self._open(connection, now)
            for operation in await searches.operations(connection):
                await self._conclude(connection, operation, now)
            await searches.forget_unread(connection)
            if not self._searched:
                self._searched = await self._note_searched(connection, now)
            states = await searches.by_state(connection)
        for state in SearchState:
            metrics.SEARCHES.labels(state).set(states.get(state, 0))
        self._unserved.tell(at_once=not states.get(SearchState.OPEN))

    async def _note_named(self, connection: Connection) -> None:
        """Remember the repositories that the settings name, like those of a listing."""
        if self._scope.repos is Repos.LISTED:
            lane_of = self._topics.partition_of
            named = [(did, lane_of(did)) for did in sorted(self._scope.dids)]
            await found.note(connection, named, found.SETTINGS, found.SETTINGS, None)

    async def _note_searched(self, connection: Connection, now: float) -> bool:
        """Note it once every wanted listing has been read; tell whether it is noted.

        A search from before the first epoch is repeated.
        """
        if not await searches.epoch(connection):
            return False
        known = await searches.read_all(connection)
        unread = rules_of_discovery.unread_hosts(self._wanted, known, now, self._rules)
        if unread is None:
            return False
        await snapshots.searched(connection, self._scope.extent, unread)
        return True

    async def _ask_for(
        self, connection: Connection, operations: Sequence[Operation], now: float
    ) -> None:
        """Open the searches that commands ask for, from the first source on or at theirs."""
        asked = [one for one in operations if one.status is Status.QUEUED]
        if not asked:
            return
        known = await searches.read(connection)
        epoch = await searches.epoch(connection)
        for operation in asked:
            if (host := hosts.of_subject(operation.reason or "")) is not None:
                await self._registry.register(connection, operation, host, now)
                continue
            collection, source = rules_of_discovery.asked_for(operation.reason or "")
            wanted = [each for each in self._wanted if collection in (None, each)]
            sources = self._sources if source is None else [source]
            if not wanted or (source is not None and source not in self._sources):
                detail = "none of the wanted listings, or of discovery.sources, is this one"
                failed = transitions.fail(operation, now, Failure.OUT_OF_SCOPE, detail)
                await searches.save_operations(connection, [failed])
                continue
            await searches.save_operations(
                connection, [transitions.start(operation, max(now, operation.run_after))]
            )
            for listing in wanted:
                under_way = [
                    search
                    for each in sources
                    if (search := known.get((each, listing))) is not None and not search.ended
                ]
                if under_way:
                    for search in under_way:
                        await searches.adopt(connection, search, operation.id)
                    continue
                await searches.expire(connection, listing)
                again = rules_of_discovery.opened(sources[0], listing, epoch, now)
                await searches.put(connection, replace(again, operation=operation.id))

    async def _open(self, connection: Connection, now: float) -> None:
        epoch = await searches.epoch(connection)
        known = await searches.read(connection)
        wanted, sources, rules = self._wanted, self._sources, self._rules
        steps = [*rules_of_discovery.plan(wanted, sources, known, epoch, now, rules)]
        walk = await sweep.current(connection)
        if self._settings.sweep_every and walk is not None and walk.way is Way.LISTING:
            steps += rules_of_discovery.plan([SWEEP], [self._relay], known, epoch, now, rules)
        running = {
            one.id for one in await searches.operations(connection) if one.status is Status.RUNNING
        }
        for search in steps:
            operation = search.operation
            if not search.ended:
                # The search goes on at another source, or in another way, as the same operation.
                same = {search.listing, HOSTS} if search.listing == EVERYTHING else {search.listing}
                before = [
                    each.operation
                    for (_, listing), each in known.items()
                    if listing in same and each.operation in running
                ]
                operation = before[0] if before else None
                if operation is None:
                    operation = await searches.begin(
                        connection, self._topics.partitions, search.listing
                    )
            await searches.put(connection, replace(search, operation=operation))
        await self._registry.open_again(connection, now)

    async def _conclude(self, connection: Connection, operation: Operation, now: float) -> None:
        """End an operation whose searches have all ended."""
        if operation.status is not Status.RUNNING:
            return
        own = await searches.of_operation(connection, operation.id)
        if any(state is SearchState.OPEN for _, _, state, _ in own):
            return
        if not own:
            ended = transitions.cancel(operation, now, "another operation searches the same")
            await searches.save_operations(connection, [ended])
            return
        if hosts.of_subject(operation.reason or "") is not None:
            await self._registry.conclude(connection, operation, own, now)
            return
        read = {listing for listing, _, state, _ in own if state is SearchState.COMPLETED}
        missing = {
            listing: detail
            for listing, is_host, _, detail in own
            if listing not in read and not is_host
        }
        if HOSTS in missing and EVERYTHING in read:
            del missing[HOSTS]
        if not missing:
            ended = transitions.complete(operation, now)
        else:
            names = ", ".join(sorted(missing))
            detail = printable(f"no source serves {names}: {next(iter(missing.values()))}")
            ended = transitions.fail(operation, now, Failure.HOST_ERROR, detail)
            self._unserved.add(missing)
        await searches.save_operations(connection, [ended])
