"""Reconciling on demand: controller, fetcher and worker on real Kafka and PostgreSQL.

The directory and the host are scripted.  Each repository ends as its host says.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from consumer.control.role import Controller
from consumer.kafka.topics import Topic
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from simulator.repo import tid
from tests.integration.test_account_questions import Stage, staged
from tests.integration.test_sweep import asked, latest, latest_path, shows
from tests.support.deployment import Deployment
from tests.support.eventually import eventually
from tests.support.harness import running
from tests.support.web import response

pytestmark = pytest.mark.services


@pytest.fixture
async def stage(deployment: Deployment) -> AsyncIterator[Stage]:
    async with staged(deployment) as stage:
        yield stage


@asynccontextmanager
async def controlled(stage: Stage) -> AsyncIterator[None]:
    harness, settings = stage.harness, stage.settings()
    controller = Controller(
        harness.client,
        harness.topics,
        harness.database,
        Publisher(harness.client, harness.topics, harness.database),
        Scope(settings.scope.collections),
        forget_after=3_600.0,
        retries=settings.retries.policy(),
    )
    async with stage.running(), running(controller.run):
        yield


async def ended(stage: Stage, identifier: str) -> dict[str, Any]:
    """Wait until the operation has ended, and return it as published."""

    async def look() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in await stage.harness.committed(Topic.OPERATIONS):
            if record.key == identifier.encode() and record.value is not None:
                found = orjson.loads(record.value)
        assert found.get("completedAt"), found
        return found

    operation: dict[str, Any] = await eventually(look, what="it has ended", deadline=120)
    return operation


async def reconcile(stage: Stage, identifier: str, **fields: Any) -> dict[str, Any]:
    command = {"type": "reconcile", "id": identifier, **fields}
    await stage.harness.write(Topic.CONTROL, orjson.dumps(command))
    return await ended(stage, identifier)


async def test_reconciling_all_ends_with_what_was_found(stage: Stage) -> None:
    names = ("in step", "behind", "gone", "host is down", "also in step")
    repos = {name: stage.host.account(name) for name in names}
    for repo in repos.values():
        shows(stage, repo)
    async with controlled(stage):
        for repo in repos.values():
            await stage.indexed(repo)
        await stage.commit(repos["behind"], lost=True)
        stage.host.states(repos["gone"], "deactivated")
        refusal = response(400, b'{"error": "RepoDeactivated"}')
        stage.host.site.replies[latest_path(repos["gone"].account.did)] = refusal
        stage.host.site.replies[latest_path(repos["host is down"].account.did)] = response(501)
        downloads = stage.host.downloads(repos["in step"])

        parent = await reconcile(stage, "all", select={"all": True})

        assert parent["type"] == "reconcile"
        assert parent["status"] == "completed"
        assert parent["progress"] == 100
        found = parent["children"]
        assert found["failed"].pop("AccountInactive") == 1
        assert sum(found["failed"].values()) == 1
        counts = {name: found[name] for name in ("expected", "done", "completed", "inStep")}
        assert counts == {"expected": 5, "done": 5, "completed": 3, "inStep": 2}
        await stage.in_step(repos["behind"])
        await stage.status(repos["gone"], "deactivated")
        assert await stage.repo(repos["host is down"]) == ("active", "active")
        assert stage.host.downloads(repos["in step"]) == downloads
        assert asked(stage, repos["in step"]) == 1


async def test_a_repository_that_was_deleted_by_mistake_is_not_deleted_at_once(
    stage: Stage,
) -> None:
    repo = stage.host.account("says it is gone")
    async with controlled(stage):
        await stage.indexed(repo)
        gone = response(400, b'{"error": "RepoNotFound"}')
        stage.host.site.replies[latest_path(repo.account.did)] = gone
        stage.host.answers(repo, 400, {"error": "RepoNotFound"})
        before = await stage.harness.stored()
        parent = await reconcile(stage, "one", did=repo.account.did)
        assert parent["children"]["failed"] == {"AccountInactive": 1}
        assert await stage.harness.stored() == before


async def test_a_young_revision_may_be_on_its_way(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consumer.fetch.attempts._YOUNG_SECONDS", 3_600.0)
    repo = stage.host.account("young")
    shows(stage, repo)
    async with controlled(stage):
        await stage.indexed(repo)
        downloads = stage.host.downloads(repo)
        stage.host.site.replies[latest_path(repo.account.did)] = latest(tid(time.time()))
        command = {"type": "reconcile", "id": "young", "did": repo.account.did}
        await stage.harness.write(Topic.CONTROL, orjson.dumps(command))
        parent = await ended(stage, "young")
        assert parent["children"]["failed"] == {"RepoIncomplete": 1}
        assert stage.host.downloads(repo) == downloads


async def test_a_sync_that_is_asked_for_does_not_end_with_a_check(stage: Stage) -> None:
    repo = stage.host.account("asked for")
    shows(stage, repo)
    async with controlled(stage):
        await stage.indexed(repo)
        downloads = stage.host.downloads(repo)
        both = [
            {"type": "reconcile", "id": "check", "did": repo.account.did},
            {"type": "didSync", "id": "sync", "did": repo.account.did},
        ]
        await stage.harness.write(Topic.CONTROL, *map(orjson.dumps, both))
        assert (await ended(stage, "sync"))["recordsProcessed"] > 0
        assert (await ended(stage, "check"))["children"]["completed"] == 1
        assert stage.host.downloads(repo) == downloads + 1
