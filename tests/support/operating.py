"""Controller and worker on real services, with a scripted directory and PDS for fetchers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from consumer.config.settings import FetchSettings, IdentitySettings, LimitSettings, NetworkSettings
from consumer.control import role
from consumer.control.role import Controller
from consumer.fetch.role import Fetcher
from consumer.kafka.topics import Topic
from consumer.lanes.publisher import Publisher
from consumer.state.effects import SyncReason, SyncRequest
from consumer.store.operations import queue
from procedures.retries import RetryPolicy
from simulator.repo import Repo
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.pds import COLLECTION, Pds, pds
from tests.support.web import Web, web
from tests.support.worker import WorkerHarness

ONE = f"{COLLECTION}/k00001"
TEXT = {"$type": COLLECTION, "n": "another"}


@dataclass
class Stage:
    """Controller and worker are running; the test starts fetchers."""

    harness: WorkerHarness
    plc: Web
    pds: Pds

    def fetcher(self, **fetch: Any) -> Fetcher:
        """Return a fetcher with little patience; ``fetch`` are its settings."""
        per_host = fetch.pop("requests_per_host", 4)
        patience = {"first_byte": 2.0, "idle": 1.0, "total": 30.0}
        harness = self.harness
        settings = harness.deployment.settings(
            identity=IdentitySettings(plc_url=self.plc.origin, timeout=3.0),
            network=NetworkSettings(allow_loopback=True, requests_per_host=per_host),
            fetch=FetchSettings(**patience | fetch),
            limits=LimitSettings(repo=1_000_000),
        )
        return Fetcher(
            settings, harness.client, harness.topics, harness.database, harness.resources().scope
        )

    @asynccontextmanager
    async def fetching(self, **fetch: Any) -> AsyncIterator[None]:
        async with running(self.fetcher(**fetch).run):
            yield

    async def command(self, identifier: str, **fields: Any) -> str:
        """Produce a command with this id, and return the id."""
        value = orjson.dumps({"id": identifier, **fields})
        await self.harness.write(Topic.CONTROL, value)
        return identifier

    async def sync(self, identifier: str, repo: Repo, **fields: Any) -> str:
        return await self.command(identifier, type="didSync", did=repo.account.did, **fields)

    async def refresh(self, identifier: str, repo: Repo, path: str) -> str:
        uri = f"at://{repo.account.did}/{path}"
        return await self.command(identifier, type="recordRefresh", uri=uri)

    async def want_sync(self, repo: Repo) -> None:
        """Queue an automatic sync."""
        did = repo.account.did
        async with self.harness.database.transaction() as connection:
            lane = self.harness.topics.partition_of(did)
            await queue.add(
                connection,
                lane,
                [SyncRequest(did, SyncReason.LOSS_WINDOW, 0)],
                RetryPolicy().throttle,
            )

    async def rows(self) -> dict[str, dict[str, Any]]:
        """Return all operations by their ids, as JSON would have them."""
        found = await self.harness.rows("SELECT id, row_to_json(operations) FROM operations")
        return dict(found)

    async def until(
        self, *identifiers: str, status: str | None = "completed", **expected: Any
    ) -> list[dict[str, Any]]:
        """Wait until these operations have this status, and return their rows."""
        expected = {"status": status, **expected} if status else expected

        async def look() -> list[dict[str, Any]]:
            rows = await self.rows()
            for identifier in identifiers:
                row = rows.get(identifier, {})
                assert row | expected == row, (identifier, row)
            return [rows[identifier] for identifier in identifiers]

        found: list[dict[str, Any]] = await eventually(
            look, what=f"{identifiers} are {expected}", deadline=90
        )
        return found

    async def index(self, repo: Repo) -> dict[str, str]:
        """Return the CIDs of what is stored of ``repo``, when the topic says the same."""
        did = repo.account.did

        stored: dict[str, str] = {}

        async def same() -> bool:
            nonlocal stored
            stored = (await self.harness.stored()).get(did, {})
            return (await self.harness.folded()).get(did, {}) == stored

        await eventually(same, what="events are out", deadline=60)
        return stored

    async def changes(self) -> list[dict[str, Any]]:
        """Return the events about records."""
        return [event for event in await self.harness.events() if event["type"] == "record"]


def truth(repo: Repo) -> set[str]:
    return {path for path in repo.records if path.startswith("pub.chive.")}


@asynccontextmanager
async def staged(harness: WorkerHarness, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stage]:
    """Run controller and worker."""
    monkeypatch.setattr(role, "_SWEEP_EVERY", 0.5)
    scope = harness.resources().scope
    control = Controller(
        harness.client,
        harness.topics,
        harness.database,
        Publisher(harness.client, harness.topics, harness.database),
        scope,
        forget_after=3600.0,
        retries=RetryPolicy(),
    )
    async with (
        web() as plc,
        pds(plc) as host,
        harness.working(),
        running(control.run),
    ):
        yield Stage(harness, plc, host)
