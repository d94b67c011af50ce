"""Pages of a relay's listings of repositories.

Lexicons: com.atproto.sync.listReposByCollection lists the repositories that have a record in a
collection, com.atproto.sync.listRepos all of them, with their revs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson

from consumer.fetch.hosts import Hosts
from consumer.fetch.http import HttpClient, HttpResponse, host_of
from consumer.fetch.identity import Inconclusive
from consumer.scope import EVERYTHING
from procedures.syntax import MAX_DID, is_did, is_tid

_LIMIT = 2 * 1024 * 1024
_MAX_CURSOR = 4_096
_OK = 200
# Statuses of hosts that do not have the method or do not permit it.
_ABSENT = frozenset({401, 403, 404, 405, 501})


class NotSupported(Exception):
    """The relay does not have the listing."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One active repository; ``rev`` is None if the listing does not state it."""

    did: str
    rev: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """``named`` counts inactive repositories, too; ``cursor`` is None on the last page."""

    repos: tuple[Listed, ...]
    named: int
    cursor: str | None


class Listings:
    """The listings of the relay at the websocket URL ``relay``; ``seconds`` bound a request."""

    def __init__(self, relay: str, http: HttpClient, hosts: Hosts, *, seconds: float) -> None:
        parts = urlsplit(relay)
        self.origin = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
        self._http = http
        self._hosts = hosts
        self._seconds = seconds

    async def page(self, collection: str, cursor: str | None) -> Page:
        """Return the page at ``cursor`` of a collection's repositories, or of all with ``*``.

        Raises ``NotSupported``, ``HostUnavailable``, ``Inconclusive`` or ``Refused``.
        """
        url = self.url(collection, cursor)
        async with self._hosts.slot(host_of(url)):
            response = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        return parse(response, url)

    def url(self, collection: str, cursor: str | None) -> str:
        """Return the URL of a page."""
        whole = collection == EVERYTHING
        method = "listRepos" if whole else "listReposByCollection"
        named = {"limit": "1000"} if whole else {"collection": collection, "limit": "2000"}
        query = urlencode(named | ({} if cursor is None else {"cursor": cursor}))
        return f"{self.origin}/xrpc/com.atproto.sync.{method}?{query}"


def parse(response: HttpResponse, url: str) -> Page:
    """Return the page in ``response``; malformed entries are left out.

    Raises ``NotSupported`` or ``Inconclusive``.
    """
    if response.status in _ABSENT:
        raise NotSupported(f"status {response.status} from {url}")
    try:
        body: Any = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        body = None
    match response.status, body:
        case 200, {"repos": list(entries)}:
            return Page(
                tuple(listed for entry in entries if (listed := _listed(entry)) is not None),
                len(entries),
                _cursor(body.get("cursor")),
            )
        case 400, {"error": "MethodNotImplemented" | "XRPCNotSupported"}:
            raise NotSupported(f"{body['error']} from {url}")
    raise Inconclusive(f"status {response.status} without a page: {response.body[:100]!r}")


def _listed(entry: Any) -> Listed | None:
    match entry:
        case {"did": str(did)} if len(did) <= MAX_DID and is_did(did):
            rev = entry.get("rev")
            known = rev if isinstance(rev, str) and is_tid(rev) else None
            return Listed(did, known) if entry.get("active", True) is True else None
    return None


def _cursor(value: Any) -> str | None:
    """Return the cursor if Postgres can store it, else None."""
    usable = isinstance(value, str) and 0 < len(value) <= _MAX_CURSOR and "\0" not in value
    return value if usable else None
