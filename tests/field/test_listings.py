"""Accounts that no frame tells of: found in listings, whatever the sources and hosts are like."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest

from simulator.repo import Repo
from tests.field.network import Source
from tests.field.product import Product
from tests.support.hosts import Host
from tests.support.web import Reply, response

pytestmark = pytest.mark.services

ANSWERS = 20  # requests to a source for one listing that ends: far more are a circle
PROXY = b'{"error":"BadRequest","message":"failed to proxy to upstream relay"}'
NOT_SERVED = [
    pytest.param("pub.chive.graph.vote", response(400, PROXY), id="400 that repeats"),
    pytest.param("pub.chive.graph.node", response(404), id="404"),
    pytest.param("pub.chive.graph.edge", response(501, b"{}"), id="501"),
    pytest.param(
        "pub.chive.eprint.version",
        response(400, b'{"error":"MethodNotImplemented"}'),
        id="MethodNotImplemented",
    ),
    pytest.param("pub.chive.eprint.userTag", response(200, b"<!DOCTYPE html><html>"), id="HTML"),
]


def dids(repos: Sequence[Repo]) -> list[str]:
    return [repo.account.did for repo in repos]


async def quiet(product: Product, name: str, count: int = 1) -> list[Repo]:
    """Start a host with accounts that wrote before anybody listened."""
    host = await product.network.host()
    return [host.account(f"{name} {n}") for n in range(count)]


def sources(product: Product) -> tuple[Source, Source]:
    first, second = product.network.sources
    return first, second


@pytest.mark.parametrize(("collection", "reply"), NOT_SERVED)
async def test_a_source_that_does_not_serve_the_listing_gives_way_to_the_next(
    product: Product, collection: str, reply: Reply
) -> None:
    first, second = sources(product)
    repos = await quiet(product, collection)
    first.says(collection, reply)
    second.lists(collection, dids(repos))
    before = first.asked(collection)
    ended = await product.done(type="discover", collection=collection)
    assert ended["status"] == "completed", ended
    await product.agrees(*repos)
    assert first.asked(collection) - before <= ANSWERS


async def test_a_source_that_is_away_gives_way_to_the_next(product: Product) -> None:
    first, second = sources(product)
    collection = "pub.chive.review.comment"
    repos = await quiet(product, collection)
    first.says(collection, response(503))
    second.lists(collection, dids(repos))
    await product.done(type="discover", collection=collection)
    await product.agrees(*repos)


async def test_a_page_that_always_fails_is_read_elsewhere(
    product: Product,
) -> None:
    first, second = sources(product)
    collection = "pub.chive.review.endorsement"
    repos = await quiet(product, collection, count=12)
    first.lists(collection, dids(repos), size=5, poison={repos[7].account.did})
    second.says(collection, response(404))
    ended = await product.done(type="discover", collection=collection)
    await product.agrees(*repos[:7])
    assert ended["status"] == "failed"
    sql = "SELECT state, detail FROM searches WHERE listing = %s AND source = %s"
    ((state, detail),) = await product.rows(sql, [collection, first.origin])
    assert (state, "'7'" in detail) == ("incomplete", True)  # the cursor is named
    second.lists(collection, dids(repos), size=5)
    await product.done(type="discover", collection=collection)
    await product.agrees(*repos)


async def test_cursors_in_a_circle_end_the_listing(product: Product) -> None:
    first, second = sources(product)
    collection = "pub.chive.eprint.citation"
    repos = await quiet(product, collection, count=2)
    first.says(collection, response(200, b'{"repos":[],"cursor":"round"}'))
    second.lists(collection, dids(repos))
    before = first.asked(collection)
    await product.done(type="discover", collection=collection)
    await product.agrees(*repos)
    assert first.asked(collection) - before <= ANSWERS


async def test_accounts_that_are_gone_hold_up_nobody(product: Product) -> None:
    first, _ = sources(product)
    collection = "pub.chive.actor.profile"
    host = await product.network.host()
    gone = [host.account(f"gone {n}") for n in range(3 * product.settings.discovery.queued)]
    for repo in gone[::2]:
        host.refuses(repo, 400, {"error": "NotFound", "message": "Repo not found"})
        host.answers(repo, 400, {"error": "NotFound", "message": "Repo not found"})
    for repo in gone[1::2]:
        del product.network.directory.replies[f"/{repo.account.did}"]
    repos = await quiet(product, collection, count=3)
    first.lists(collection, [*dids(gone), *dids(repos)], size=4)
    ended = await product.done(type="discover", collection=collection)
    assert ended["status"] == "completed", ended
    await product.agrees(*repos)
    for repo in gone:
        assert await product.state(repo) == ("", "")


async def test_a_stranger_whose_first_syncs_fail_is_remembered(product: Product) -> None:
    first, _ = sources(product)
    collection = "pub.chive.discovery.settings"
    hosts = [await product.network.host() for _ in range(3)]
    repos = [host.account(f"unlucky {n}") for n, host in enumerate(hosts)]
    hosts[0].serves(repos[0], response(503))
    hosts[1].serves(repos[1], response(500))
    hosts[2].serves(repos[2], response(200, b"no repository"))
    first.lists(collection, dids(repos))
    await product.done(type="discover", collection=collection)
    for host, repo in zip(hosts, repos, strict=True):
        await product.eventually(partial(_failing, host, repo), what="it fails again and again")
        assert await product.state(repo) == ("", "")
        host.pds.host(repo)
    await product.agrees(*repos)


def _failing(host: Host, repo: Repo) -> bool:
    return host.downloads(repo) >= 2


async def test_what_is_no_account_of_the_listed_kind_stays_out(product: Product) -> None:
    first, _ = sources(product)
    collection = "pub.chive.graph.edgeProposal"
    host, empty = await product.network.account("nothing wanted", records=0)
    repos = await quiet(product, collection)
    first.lists(collection, ["not a DID", empty.account.did, *dids(repos)])
    await product.done(type="discover", collection=collection)
    await product.agrees(*repos)
    await product.eventually(lambda: host.downloads(empty) >= 1, what="it is read")

    async def forgotten() -> bool:
        sql = "SELECT count(*) FROM found WHERE did = %s"
        return await product.rows(sql, [empty.account.did]) == [(0,)]

    await product.eventually(forgotten, what="it is forgotten")
    assert await product.stored(empty) == {}
