"""The whole consumer in this process, and the one thing that must hold in the end."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson

from consumer.app import Plan, Role, run
from consumer.config.retries import RetrySettings
from consumer.config.settings import (
    AccountSettings,
    DiscoverySettings,
    IdentitySettings,
    NetworkSettings,
    RelaySettings,
    Settings,
    WorkerSettings,
)
from consumer.errors import Transient
from consumer.kafka.topics import Topic
from consumer.scope import Scope
from procedures.syntax import cid_text
from simulator.repo import Repo
from tests.field.network import Network
from tests.support.eventually import eventually
from tests.support.harness import Harness

DEADLINE = 90.0  # seconds
ASK_EVERY = 2.0

Records = dict[str, str]


@dataclass
class Product(Harness):
    """Tailer, worker, fetcher, discovery and controller as ``consumer run`` has them.

    ``changed`` are sections of the settings that differ from those of the tests.
    """

    network: Network
    changed: dict[str, Any] = field(default_factory=dict)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _work: asyncio.Task[None] | None = None

    @property
    def settings(self) -> Settings:
        """Settings with short waits; what a test waits for is never their end alone."""
        sections: dict[str, Any] = {
            "relay": RelaySettings(
                url=self.network.relay.url, start="oldest", future_cursor_confirm=1.0
            ),
            "identity": IdentitySettings(
                plc_url=self.network.directory.origin, timeout=3.0, refresh_interval=0.5
            ),
            "network": NetworkSettings(allow_loopback=True),
            "worker": WorkerSettings(progress_every=1.0),
            "discovery": DiscoverySettings(
                sources=tuple(source.origin for source in self.network.sources),
                pace=1_000.0,
                queued=4,
                sweep_every=0.0,
            ),
            "accounts": AccountSettings(
                ask_every=ASK_EVERY, deletion_confirm_after=ASK_EVERY, deletion_share=1.0
            ),
            "retries": RetrySettings(
                asked_for_first=0.2,
                automatic_first=0.3,
                renewal_first=0.5,
                renewal_longest=2.0,
                host_first=0.3,
                host_longest=1.0,
                directory_longest=1.0,
                lookup_first=0.2,
                lookup_longest=1.0,
                listing_first=0.1,
                listing_longest=0.3,
                throttle_free=1_000,
            ),
        }
        return self.deployment.settings(**{**sections, **self.changed})

    # -- its life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Start, and wait until the relay is connected."""
        connected = len(self.network.relay.cursors)
        self._stop = asyncio.Event()
        roles = frozenset({Role.TAILER, Role.WORKER, Role.FETCHER})
        self._work = asyncio.create_task(run(Plan(self.settings, roles), self._stop))
        try:
            await self.eventually(
                lambda: len(self.network.relay.cursors) > connected, what="the relay is connected"
            )
        except BaseException:
            with suppress(Exception):
                await self.stop()
            raise

    async def stop(self) -> None:
        """Stop in good order."""
        self._stop.set()
        if self._work is not None:
            work, self._work = self._work, None
            await asyncio.wait_for(work, 60)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run during the block."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    async def eventually(
        self, look: Callable[[], Any], *, what: str, deadline: float = DEADLINE
    ) -> Any:
        """Wait for ``look``; fail at once, with the reason, if the consumer ends."""

        async def alive() -> Any:
            if self._work is not None and self._work.done():
                self._work.result()
                raise RuntimeError("the consumer has ended")
            try:
                found = look()
                return await found if inspect.isawaitable(found) else found
            except Transient as away:  # the test's own sessions, as those of the consumer
                raise AssertionError(str(away)) from away

        return await eventually(alive, what=what, deadline=deadline)

    # -- what is asked of it -------------------------------------------------------------

    async def command(self, **fields: Any) -> str:
        """Send a command as any client of Kafka does; return the operation's id."""
        name = f"test-{uuid4().hex}"
        await self.write(Topic.CONTROL, orjson.dumps({"id": name, **fields}))
        return name

    async def ended(self, name: str) -> dict[str, Any]:
        """Wait for the end of an operation; return what ``chive.operations`` says of it."""

        async def look() -> Any:
            sql = "SELECT status FROM operations WHERE id = %s"
            rows = await self.rows(sql, [name])
            return rows and rows[0][0] in ("completed", "failed", "cancelled")

        async def published() -> Any:
            newest: dict[str, Any] = {}
            for record in await self.committed(Topic.OPERATIONS):
                stated = orjson.loads(record.value or b"{}")
                if stated.get("id") == name:
                    newest = stated
            return newest if newest.get("status") in ("completed", "failed", "cancelled") else None

        await self.eventually(look, what=f"the end of {name}")
        found: dict[str, Any] = await self.eventually(published, what=f"{name} is published")
        return found

    async def done(self, **fields: Any) -> dict[str, Any]:
        """Send a command, and return its operation once it has ended."""
        return await self.ended(await self.command(**fields))

    # -- what came of it -----------------------------------------------------------------

    async def state(self, repo: Repo) -> tuple[str, str]:
        """Return status and sync state; empty if the account is not tracked."""
        sql = "SELECT status, sync_state FROM repos WHERE did = %s"
        rows = await self.rows(sql, [repo.account.did])
        return rows[0] if rows else ("", "")

    async def stored(self, repo: Repo) -> Records:
        """Return the account's records in the table: CIDs by path."""
        sql = "SELECT path, cid FROM records WHERE did = %s AND cid IS NOT NULL"
        return {path: cid_text(cid) for path, cid in await self.rows(sql, [repo.account.did])}

    async def events(self, did: str | None = None) -> list[dict[str, Any]]:
        """Return the events of ``did``, None: all; tombstones apart."""
        records = await self.told()
        events = [orjson.loads(each.value) for each in records if each.value is not None]
        of_accounts = [event for event in events if "did" in event]
        return [event for event in of_accounts if did in (None, event["did"])]

    async def agrees(self, *repos: Repo, without: Collection[str] = ()) -> None:
        """Wait until the table is the fold of the topic and what the hosts of ``repos`` hold.

        ``without``: paths in the trees that are no records, or whose bytes no host has.
        Every repository is active then, and no revision of a record has fallen.
        """
        scope = Scope(self.settings.scope.collections)
        for repo in repos:
            held = {
                path: cid_text(cid)
                for path, (_, cid) in repo.records.items()
                if scope.wants(path) and path not in without
            }
            await self._holds(repo, ("active", "active"), held)

    async def gone(self, *repos: Repo) -> None:
        """Wait until the accounts are deleted, and nothing of them is in table or topic."""
        for repo in repos:
            await self._holds(repo, ("deleted", None), {})

    async def has_status(self, repo: Repo, status: str) -> None:
        """Wait until the account has ``status``."""

        async def reached() -> bool:
            return (await self.state(repo))[0] == status

        await self.eventually(reached, what=f"{repo.account.did} is {status}")

    async def _holds(self, repo: Repo, state: tuple[str, str | None], held: Records) -> None:
        did = repo.account.did

        async def in_table() -> bool:
            status, sync_state = await self.state(repo)
            assert (status, state[1] and sync_state) == state
            assert await self.stored(repo) == held
            return True

        async def in_topic() -> bool:
            status, left = folded(await self.events(did))
            assert status in (None, state[0])
            assert left == held
            return True

        await self.eventually(in_table, what=f"the table is what the host of {did} holds")
        await self.eventually(in_topic, what=f"the topic's fold is the table of {did}")


def folded(events: list[dict[str, Any]]) -> tuple[str | None, Records]:
    """Return the newest status (None: no event states one) and the records that are left."""
    status: str | None = None
    records: Records = {}
    revs: dict[str, str] = {}
    ids = [event["id"] for event in events]
    assert len(set(ids)) == len(ids)
    for event in events:
        if event["type"] == "account":
            status = event["status"]
        if event["type"] != "record":
            continue
        path = f"{event['collection']}/{event['rkey']}"
        assert event["rev"] >= revs.get(path, "")
        revs[path] = event["rev"]
        if event["action"] == "delete":
            records.pop(path, None)
        else:
            records[path] = event["cid"]
    return status, records
