"""Accounts whose notices are lost, late or replayed: the host of today has the last word."""

from __future__ import annotations

from typing import Any

import pytest

from simulator.repo import Repo
from tests.field.product import Product
from tests.support.hosts import Host
from tests.support.web import response

pytestmark = pytest.mark.services

GONE = [
    pytest.param({"error": "RepoNotFound"}, id="RepoNotFound"),
    pytest.param({"error": "NotFound", "message": "Repo not found"}, id="NotFound"),
    pytest.param(
        {"error": "InvalidRequest", "message": "Could not find repo for DID: did:plc:x"},
        id="InvalidRequest",
    ),
]
INACTIVE = [
    ("RepoDeactivated", "deactivated"),
    ("RepoTakendown", "takendown"),
    ("RepoSuspended", "suspended"),
]


async def indexed(product: Product, name: str) -> tuple[Host, Repo]:
    host, repo = await product.network.account(name)
    await product.network.commit(repo)
    await product.agrees(repo)
    return host, repo


async def broken(product: Product, repo: Repo) -> None:
    """Break the chain, so that the host is asked for the repository."""
    await product.network.commit(repo, lost=True)
    await product.network.commit(repo)


@pytest.mark.parametrize("status", ["deactivated", "throttled", "desynchronized"])
async def test_a_lost_reactivation_is_noticed_by_the_next_commit(
    product: Product, status: str
) -> None:
    host, repo = await indexed(product, f"returned {status}")
    host.states(repo, status)
    await product.network.says(repo, status)
    await product.has_status(repo, status)
    host.states(repo, "active")  # and no frame says so
    await product.network.commit(repo, lost=True)
    await product.network.commit(repo)
    await product.agrees(repo)
    assert host.asked(repo) <= 2


async def test_a_lost_reactivation_is_noticed_by_a_command(product: Product) -> None:
    _, repo = await indexed(product, "quiet")
    await product.network.says(repo, "deactivated")
    await product.has_status(repo, "deactivated")
    await product.network.commit(repo, lost=True)
    ended = await product.done(type="didSync", did=repo.account.did)
    assert ended["status"] == "completed", ended
    await product.agrees(repo)


async def test_the_old_host_says_deactivated_after_a_migration(product: Product) -> None:
    old, repo = await indexed(product, "migrated")
    new = await product.network.host()
    new.host(repo)
    old.states(repo, "deactivated")
    await product.network.moved(repo)
    await product.network.commit(repo)
    await product.network.says(repo, "deactivated")  # late, and never taken back
    await product.has_status(repo, "deactivated")
    await product.network.commit(repo)
    await product.agrees(repo)
    assert new.asked(repo) >= 1


@pytest.mark.parametrize("said", GONE)
async def test_an_account_that_went_without_a_frame_is_deleted_by_two_answers(
    product: Product, said: dict[str, Any]
) -> None:
    host, repo = await indexed(product, f"gone {said}")
    host.refuses(repo, 400, said)
    host.answers(repo, 400, said)
    held = await product.stored(repo)
    await broken(product, repo)
    await product.eventually(lambda: host.asked(repo) >= 1, what="a question")
    stored = await product.stored(repo)
    assert stored.items() >= held.items() or host.asked(repo) > 1
    await product.gone(repo)
    assert host.asked(repo) == 2


@pytest.mark.parametrize(("name", "status"), INACTIVE)
async def test_an_account_that_went_without_a_frame_gets_its_hosts_status(
    product: Product, name: str, status: str
) -> None:
    host, repo = await indexed(product, name)
    host.refuses(repo, 400, {"error": name})
    host.states(repo, status)
    held = await product.stored(repo)
    await broken(product, repo)
    await product.has_status(repo, status)
    assert (await product.stored(repo)).items() >= held.items()
    host.states(repo, "active")
    await product.network.says(repo, None)
    await product.agrees(repo)


async def test_a_tombstone_of_the_directory_deletes(product: Product) -> None:
    host, repo = await indexed(product, "tombstone")
    product.network.directory.replies[f"/{repo.account.did}"] = response(410)
    await broken(product, repo)
    await product.gone(repo)
    assert host.asked(repo) == 0


async def test_a_deletion_that_its_host_confirms(product: Product) -> None:
    host, repo = await indexed(product, "deleted")
    host.refuses(repo, 400, {"error": "RepoNotFound"})
    host.answers(repo, 400, {"error": "RepoNotFound"})
    await product.network.says(repo, "deleted")
    await product.gone(repo)
    assert host.asked(repo) == 1


async def test_an_activation_that_overtakes_its_deletion_ends_in_a_sync(product: Product) -> None:
    host, repo = await indexed(product, "undeleted")
    await product.network.commit(repo, lost=True)
    await product.network.says(repo, "deleted")
    await product.network.says(repo, None)
    await product.agrees(repo)
    assert host.downloads(repo) >= 2


async def test_an_operator_forgets_an_account_and_its_next_commit_brings_it_back(
    product: Product,
) -> None:
    _, repo = await product.network.account("forgotten")
    await product.network.commit(repo)
    await product.agrees(repo)
    did, known = repo.account.did, await product.stored(repo)
    done = await product.done(type="forget", did=did)
    assert (done["status"], done["deleted"]) == ("completed", len(known))
    assert await product.state(repo) == ("", "")
    assert await product.stored(repo) == {}
    events = [each for each in await product.events(did) if each["source"] == "operator"]
    assert [each["action"] for each in events if each["type"] == "record"] == (
        ["delete"] * len(known)
    )
    assert [each["status"] for each in events if each["type"] == "account"] == ["deleted"]
    await product.network.commit(repo)
    await product.agrees(repo)
    statuses = [each["status"] for each in await product.events(did) if each["type"] == "account"]
    assert statuses == ["deleted", "active"]
