"""Pages of listings, and which listings a scope needs."""

from __future__ import annotations

import orjson
import pytest

from consumer.fetch.discovery import listings
from consumer.fetch.hosts import HostPolicy, Hosts
from consumer.fetch.http import HttpClient, HttpResponse
from consumer.fetch.identity import Inconclusive
from consumer.fetch.listing import Listed, Listings, NotSupported, parse
from consumer.scope import Repos, Scope
from procedures.retries import DEFAULT

DID = "did:plc:" + "a" * 24
REV = "3l6oveex3ii2l"


def answer(status: int, body: object) -> HttpResponse:
    return HttpResponse(status, orjson.dumps(body))


def test_a_page_of_repositories() -> None:
    body = {
        "cursor": "next",
        "repos": [
            {"did": DID, "rev": REV, "active": True},
            {"did": "did:web:gone.example", "rev": REV, "active": False},
            {"did": "did:web:here.example", "rev": "not a rev"},
            {"did": "nonsense"},
            "nonsense",
        ],
    }
    page = parse(answer(200, body), "")
    assert page.repos == (Listed(DID, REV), Listed("did:web:here.example", None))
    assert (page.named, page.cursor) == (5, "next")


def test_the_last_page() -> None:
    assert parse(answer(200, {"repos": []}), "").cursor is None
    assert parse(answer(200, {"repos": [], "cursor": ""}), "").cursor is None


@pytest.mark.parametrize("cursor", [7, None, ["x"], "x" * 5_000, "a\0b"])
def test_a_cursor_that_cannot_be_kept_is_none(cursor: object) -> None:
    assert parse(answer(200, {"repos": [], "cursor": cursor}), "").cursor is None


@pytest.mark.parametrize("status", [401, 403, 404, 405, 501])
def test_a_relay_without_the_method(status: int) -> None:
    with pytest.raises(NotSupported):
        parse(answer(status, {"error": "AuthMissing"}), "")


def test_other_answers_settle_nothing() -> None:
    bad_request = answer(400, {"error": "InvalidRequest"})
    for other in (answer(200, {}), bad_request, HttpResponse(200, b"<p>")):
        with pytest.raises(Inconclusive):
            parse(other, "")
    with pytest.raises(NotSupported):
        parse(answer(400, {"error": "MethodNotImplemented"}), "")


async def test_where_the_pages_are() -> None:
    async with HttpClient(allow_loopback=True) as http:
        hosts = Hosts(HostPolicy(1, DEFAULT.host), {}, DEFAULT)
        secure = Listings("wss://relay.example", http, hosts, seconds=1)
        plain = Listings("ws://localhost:2470", http, hosts, seconds=1)
    assert secure.url("a.b.c", None) == (
        "https://relay.example/xrpc/com.atproto.sync.listReposByCollection"
        "?collection=a.b.c&limit=2000"
    )
    assert plain.url("*", "x y") == (
        "http://localhost:2470/xrpc/com.atproto.sync.listRepos?limit=1000&cursor=x+y"
    )


def test_which_listings_a_scope_needs() -> None:
    known = ("org.chive.note", "org.chivery.note", "site.standard.document")
    assert listings(Scope(("org.chive.*", "a.b.c")), known) == ("a.b.c", "org.chive.note")
    assert listings(Scope(("*",)), known) == ("*",)
    assert listings(Scope(("pub.chive.*",), Repos.ALL), known) == ("*",)
    assert listings(Scope(("pub.chive.*",), Repos.LISTED), known) == ()
