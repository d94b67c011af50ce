"""Pages of a relay's listings of repositories.

``com.atproto.sync.listReposByCollection`` names those that have a record in a collection,
``com.atproto.sync.listRepos`` all of them, with their revisions.
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
# What hosts without the method say: not there, not for you, not implemented.
_ABSENT = frozenset({401, 403, 404, 405, 501})


class NotSupported(Exception):
    """The relay has no such listing."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One active repository; ``rev`` None if the listing does not tell."""

    did: str
    rev: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """``named`` counts the inactive ones too; ``cursor`` None: this was the last page."""

    repos: tuple[Listed, ...]
    named: int
    cursor: str | None


class Listings:
    """The listings of the relay at ``relay``, a websocket URL."""

    def __init__(self, relay: str, http: HttpClient, hosts: Hosts, *, seconds: float) -> None:
        parts = urlsplit(relay)
        self.origin = f"{'https' if parts.scheme == 'wss' else 'http'}://{parts.netloc}"
        self._http = http
        self._hosts = hosts
        self._seconds = seconds

    async def page(self, collection: str, cursor: str | None) -> Page:
        """Return the page at ``cursor`` of a collection's repositories, or of ``*``, of all.

        Raises ``NotSupported``, ``HostUnavailable``, ``Inconclusive`` or ``Refused``.
        """
        url = self.url(collection, cursor)
        async with self._hosts.slot(host_of(url)):
            answer = await self._http.get(url, limit=_LIMIT, seconds=self._seconds)
        return parse(answer, url)

    def url(self, collection: str, cursor: str | None) -> str:
        """Return where a page is."""
        whole = collection == EVERYTHING
        method = "listRepos" if whole else "listReposByCollection"
        named = {"limit": "1000"} if whole else {"collection": collection, "limit": "2000"}
        query = urlencode(named | ({} if cursor is None else {"cursor": cursor}))
        return f"{self.origin}/xrpc/com.atproto.sync.{method}?{query}"


def parse(answer: HttpResponse, url: str) -> Page:
    """Return the page in an answer.  Entries that make no sense are passed over."""
    if answer.status in _ABSENT:
        raise NotSupported(f"status {answer.status} from {url}")
    try:
        body: Any = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        body = None
    match answer.status, body:
        case 200, {"repos": list(entries)}:
            return Page(
                tuple(listed for entry in entries if (listed := _listed(entry)) is not None),
                len(entries),
                _cursor(body.get("cursor")),
            )
        case 400, {"error": "MethodNotImplemented" | "XRPCNotSupported"}:
            raise NotSupported(f"{body['error']} from {url}")
    raise Inconclusive(f"status {answer.status} without a page: {answer.body[:100]!r}")


def _listed(entry: Any) -> Listed | None:
    match entry:
        case {"did": str(did)} if len(did) <= MAX_DID and is_did(did):
            rev = entry.get("rev")
            known = rev if isinstance(rev, str) and is_tid(rev) else None
            return Listed(did, known) if entry.get("active", True) is True else None
    return None


def _cursor(value: Any) -> str | None:
    """Return the cursor, if it is one that the tables can hold."""
    usable = isinstance(value, str) and 0 < len(value) <= _MAX_CURSOR and "\0" not in value
    return value if usable else None
