"""Requests, their answers and redirects, over a real socket."""

from __future__ import annotations

from contextlib import suppress

import pytest

from consumer.errors import Reason, Refused
from consumer.fetch.http import HostError, HttpClient, host_of
from tests.support.web import Web, redirect, response
from tests.unit.fetch.requests import LIMIT, refusal


async def test_an_answer(http: HttpClient, site: Web) -> None:
    site.replies["/a"] = response(200, b"hello")
    answer = await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)
    assert (answer.status, answer.body) == (200, b"hello")
    head = site.requests[0].lower()
    assert "accept-encoding: identity" in head
    assert "cookie" not in head


async def test_other_statuses_are_answers(http: HttpClient, site: Web) -> None:
    assert (await http.get(f"{site.origin}/none", limit=LIMIT, seconds=5)).status == 404


async def test_cookies_are_not_kept(http: HttpClient, site: Web) -> None:
    site.replies["/a"] = response(200, set_cookie="a=b; path=/")
    for _ in range(2):
        await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)
    assert "cookie" not in site.requests[1].lower()


async def test_a_proxy_in_the_environment_is_not_used(
    site: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    site.replies["/a"] = response(200)
    async with HttpClient(allow_loopback=True) as http:
        assert (await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)).status == 200


async def test_redirects_are_followed(http: HttpClient, site: Web) -> None:
    site.replies |= {
        "/1": redirect("/2"),
        "/2": redirect(f"{site.origin}/3"),
        "/3": redirect("4"),
        "/4": response(200, b"here"),
    }
    assert (await http.get(f"{site.origin}/1", limit=LIMIT, seconds=5)).body == b"here"


async def test_a_fourth_redirect_is_refused(http: HttpClient, site: Web) -> None:
    site.replies |= {f"/{i}": redirect(f"/{i + 1}") for i in range(10)}
    assert await refusal(http, f"{site.origin}/0") == Reason.FETCH_FORBIDDEN
    assert site.paths == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "http://8.8.8.8/",  # not https, and not this machine
        "https://user:secret@example.com/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
    ],
)
async def test_redirects_are_judged_like_any_url(
    http: HttpClient, site: Web, location: str
) -> None:
    site.replies["/a"] = redirect(location)
    assert await refusal(http, f"{site.origin}/a") == Reason.FETCH_FORBIDDEN


@pytest.mark.parametrize(
    "location",
    [
        "http:path",
        "mailto:someone@example.com",
        "data:,x",
        "javascript:1",
        "https:\\\\example.com",
        "https://xn--/",
        "https://xn--a/",
        "https://[::1",
        "https://[::1%25\u00ff]/",
        "https://user@[::1%]25]:1/",
        "https://\u2603.example/",
        "https://example.com:port/",
        "//[",
        "https://example.com/" + "a" * 70_000,
    ],
)
async def test_a_redirect_to_nonsense_is_an_error_of_its_host(
    http: HttpClient, site: Web, location: str
) -> None:
    site.replies["/a"] = redirect(location)
    with pytest.raises((Refused, HostError)):
        await http.get(f"{site.origin}/a", limit=LIMIT, seconds=5)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://pds.example/xrpc", "pds.example"),
        ("https://PDS.example:443/", "pds.example"),
        ("https://pds.example./", "pds.example"),
        ("https://pds.example.:443/", "pds.example"),
        ("https://pds.example.:8443/", "pds.example:8443"),
        ("https://pds.example:8443/", "pds.example:8443"),
        ("http://127.0.0.1:2583", "127.0.0.1:2583"),
    ],
)
def test_host_of(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize("host", ["\u2603.example", "xn--a.example", "xn--", "[::1%\u2603]"])
async def test_hosts_that_are_no_names_are_refused(http: HttpClient, host: str) -> None:
    with suppress(Refused):
        host_of(f"https://{host}/")
    assert await refusal(http, f"https://{host}/") is Reason.FETCH_FORBIDDEN
