"""Pages of listings: where they are, and what the answers of sources mean."""

from __future__ import annotations

import orjson
import pytest

from consumer.config.settings import (
    DEFAULT_SOURCES,
    DiscoverySettings,
    NetworkSettings,
    RelaySettings,
    Settings,
)
from consumer.fetch.discovery.sources import sources_of
from consumer.fetch.http import HostError, HostErrorKind, HttpClient, HttpResponse
from consumer.fetch.listings import NOTHING, Listed, Listings, of_error, origin_of, parse, url_of
from consumer.state.discovery import HOSTS, SWEEP, Answer, AnswerKind
from tests.support.web import response, web

DID = "did:plc:" + "a" * 24
REV = "3l6oveex3ii2l"
VOTES = "pub.chive.graph.vote"


def answer(status: int, body: object, listing: str = VOTES) -> Answer:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return parse(HttpResponse(status, content), listing, "https://a.example/x?y")[0]


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
    found, page = parse(HttpResponse(200, orjson.dumps(body)), VOTES, "")
    assert page.repos == (
        Listed(DID, REV, active=True),
        Listed("did:web:gone.example", REV, active=False),
        Listed("did:web:here.example", None),
    )
    assert (found.kind, found.named, found.cursor) == (AnswerKind.PAGE, 5, "next")


@pytest.mark.parametrize("loopback", [False, True])
def test_a_page_of_hosts(*, loopback: bool) -> None:
    hosts = [
        {"hostname": "PDS.example", "status": "active"},
        {"hostname": "127.0.0.1:2583"},
        {"hostname": "bad.example", "status": "banned"},
        {"hostname": "user@host/path"},
        {"hostname": "a\r\nb"},
        {"hostname": 7},
        7,
    ]
    found, page = parse(
        HttpResponse(200, orjson.dumps({"hosts": hosts})), HOSTS, "", allow_loopback=loopback
    )
    local = "http" if loopback else "https"
    assert page.hosts == ("https://pds.example", f"{local}://127.0.0.1:2583")
    assert (found.named, found.cursor) == (7, None)


@pytest.mark.parametrize("cursor", [7, None, ["x"], "x" * 5_000, "a\0b", ""])
def test_a_cursor_that_cannot_be_kept_is_none(cursor: object) -> None:
    assert answer(200, {"repos": [], "cursor": cursor}).cursor is None


def test_a_page_without_entries_is_a_page() -> None:
    assert answer(200, {"repos": []}) == answer(200, {"repos": None}) == Answer(AnswerKind.PAGE)
    assert answer(200, {}).kind is AnswerKind.REFUSED


@pytest.mark.parametrize(
    ("status", "body"),
    [
        *((status, {"error": "AuthMissing"}) for status in (401, 403, 404, 405)),
        (200, b"<!doctype html><p>welcome"),
        (400, b"\n <html>"),
        (400, {"error": "MethodNotImplemented"}),
        (400, {"error": "XRPCNotSupported"}),
    ],
)
def test_not_served_here_in_all_its_dresses(status: int, body: object) -> None:
    assert answer(status, body).kind is AnswerKind.ABSENT


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HostError(HostErrorKind.BROKEN, "x", status=501), AnswerKind.ABSENT),
        (HostError(HostErrorKind.BROKEN, "x", status=500), AnswerKind.BROKEN),
        (HostError(HostErrorKind.BROKEN, "x", status=503), AnswerKind.AWAY),
        (HostError(HostErrorKind.BUSY, "x", 7.0, 429), AnswerKind.AWAY),
        (HostError(HostErrorKind.SLOW, "x"), AnswerKind.BROKEN),
        (HostError(HostErrorKind.AWAY, "x"), AnswerKind.AWAY),
        (HostError(HostErrorKind.CUT_SHORT, "x"), AnswerKind.BROKEN),
    ],
)
def test_what_a_failed_request_means(error: HostError, kind: AnswerKind) -> None:
    found = of_error(error)
    assert found.kind is kind
    assert found.retry_after == (error.retry_after or 0.0)


def test_the_default_relay_refuses_by_a_name() -> None:
    body = {"error": "BadRequest", "message": "failed to proxy to upstream relay"}
    found = answer(400, body)
    assert (found.kind, found.name) == (AnswerKind.REFUSED, "BadRequest")
    assert "BadRequest failed to proxy to upstream relay" in found.detail
    assert "https://a.example/x" in found.detail


@pytest.mark.parametrize(
    ("status", "body"), [(200, {}), (200, b"\x00"), (400, b""), (410, {"error": "\r\n"})]
)
def test_an_answer_without_a_name_is_named_by_its_status(status: int, body: object) -> None:
    found = answer(status, body)
    assert (found.kind, found.name) == (AnswerKind.REFUSED, f"status {status}")
    assert found.detail.isprintable()


def test_where_the_pages_are() -> None:
    assert url_of("https://relay.example", "a.b.c", None, 2_000) == (
        "https://relay.example/xrpc/com.atproto.sync.listReposByCollection"
        "?collection=a.b.c&limit=2000"
    )
    for listing in ("*", SWEEP):
        assert url_of("http://localhost:2470", listing, "x y", 1_000) == (
            "http://localhost:2470/xrpc/com.atproto.sync.listRepos?limit=1000&cursor=x+y"
        )
    assert url_of("https://a.example", HOSTS, None, 10) == (
        "https://a.example/xrpc/com.atproto.sync.listHosts?limit=10"
    )


async def test_whatever_a_source_sends_is_an_answer() -> None:
    path = f"/xrpc/com.atproto.sync.listReposByCollection?collection={VOTES}&limit=1"
    async with web() as site, HttpClient(allow_loopback=True) as http:
        pages = Listings(http, allow_loopback=True, seconds=1)
        for reply, kind in (
            (response(501), AnswerKind.ABSENT),
            (response(500), AnswerKind.BROKEN),
            (response(200, b"x" * 3_000_000), AnswerKind.BROKEN),
            (response(302, location="ftp://elsewhere/"), AnswerKind.ABSENT),
            (b"nonsense", AnswerKind.AWAY),
        ):
            site.replies[path] = reply
            found, page = await pages.ask(site.origin, VOTES, None, 1)
            assert (found.kind, page) == (kind, NOTHING)


async def test_a_private_host_of_a_listing_is_not_asked() -> None:
    async with HttpClient(allow_loopback=False) as http:
        pages = Listings(http, allow_loopback=False, seconds=1)
        found, _ = await pages.ask("https://127.0.0.1:1", "*", None, 1)
    assert found.kind in (AnswerKind.ABSENT, AnswerKind.AWAY)


def test_the_origin_of_a_relay() -> None:
    assert origin_of("wss://relay.example") == "https://relay.example"
    assert origin_of("ws://localhost:2470") == "http://localhost:2470"


def test_the_sources_of_a_deployment() -> None:
    public = sources_of(Settings())
    assert public == ("https://bsky.network", *DEFAULT_SOURCES[1:])
    own = DiscoverySettings(sources=("https://a.example", "relay", "https://bsky.network"))
    assert sources_of(Settings(discovery=own)) == ("https://a.example", "https://bsky.network")


@pytest.mark.parametrize(
    "settings",
    [
        Settings(network=NetworkSettings(allow_loopback=True)),
        Settings(relay=RelaySettings(url="ws://127.0.0.1:2470")),
    ],
)
def test_development_asks_the_relay_alone(settings: Settings) -> None:
    assert sources_of(settings) == (origin_of(settings.relay.url),)
